//! What is known of a destination, kept beside it: read before a copy, brought up to date by everything that looks at the
//! server. Old refusals are not believed for ever.

use jiff::{SignedDuration, Timestamp};
use model::{Ability, Drift, Fact, Logins, Observer, Profile, Publish, Tried};
use store::{Mutation, Store};
use transfer::engine::{Known, Learned};

use crate::error::{Error, Result};
use crate::spec::Options;
use crate::{advice, verdict};

/// So long a refusal that was looked for is believed; after that a copy tries again.
const BELIEVED: SignedDuration = SignedDuration::from_hours(7 * 24);
/// A copy that was refused a login may have met somebody else's sessions, or a moment's trouble.
const LOGINS_BELIEVED: SignedDuration = SignedDuration::from_hours(24);

/// What is known of a destination. A record that cannot be read is one that says nothing.
pub async fn load(store: &Store, destination: &str) -> Result<Option<Profile>> {
    let record = store.destination(destination).await?;
    let text = record.and_then(|record| record.profile);
    Ok(text.and_then(|text| serde_json::from_str(&text).inspect_err(|error| tracing::warn!(%error, "a profile cannot be read")).ok()))
}

/// Adds what was observed now. Returns all that is known, and what is no longer so.
pub async fn observe(store: &Store, newer: Profile) -> Result<(Profile, Vec<Drift>)> {
    let destination = newer.destination.clone();
    let (profile, drift) = match load(store, &destination).await? {
        Some(mut known) => {
            let drift = known.update(newer);
            (known, drift)
        }
        None => (newer, Vec::new()),
    };
    let text = serde_json::to_string(&profile)
        .map_err(|error| Error::new(model::ErrorClass::Internal, format!("the profile cannot be stored: {error}")))?;
    store.commit(Mutation::SaveProfile { destination, profile: Some(text) }).await?;
    Ok((profile, drift))
}

/// Forgets what is known; `false` if nothing was.
pub async fn forget(store: &Store, destination: &str) -> Result<bool> {
    let known = store.destination(destination).await?.is_some_and(|record| record.profile.is_some());
    if known {
        store.commit(Mutation::SaveProfile { destination: destination.to_owned(), profile: None }).await?;
    }
    Ok(known)
}

fn believed(at: Timestamp, now: Timestamp, how_long: SignedDuration) -> bool {
    now.duration_since(at) < how_long
}

fn limited(profile: &Profile, now: Timestamp) -> Option<&Logins> {
    let believed_for = |logins: &Logins| if logins.by == Observer::Copy { LOGINS_BELIEVED } else { BELIEVED };
    profile.logins.as_ref().filter(|logins| logins.limited && believed(logins.at, now, believed_for(logins)))
}

fn refusal(profile: &Profile, ability: Ability, now: Timestamp) -> Option<&Fact> {
    profile.fact(ability).filter(|fact| fact.known == Tried::No && believed(fact.at, now, BELIEVED))
}

/// What a copy starts from. Only refusals: what was granted is tried again.
pub fn known(profile: &Profile, now: Timestamp) -> Known {
    let believed = [Ability::OffsetWrites, Ability::Continues, Ability::Rename, Ability::HashSha256, Ability::HashMd5];
    Known {
        software: profile.software.clone(),
        fingerprint: profile.fingerprint.clone(),
        logins: limited(profile, now).map(|logins| logins.granted as usize),
        // What is not offered is asked anew with every login, at no cost.
        refused: believed.into_iter().filter(|ability| refusal(profile, *ability, now).is_some_and(|f| !is_unoffered(f))).collect(),
    }
}

fn is_unoffered(fact: &Fact) -> bool {
    fact.evidence == "not offered"
}

/// What to say before the first byte.
pub fn warnings(profile: &Profile, options: &Options, now: Timestamp) -> Vec<String> {
    let mut said = Vec::new();
    let mut say = |fact: &Fact, ability: Ability, what: &str| {
        let setting = advice::setting(profile, ability).map_or(String::new(), |setting| format!("; their remedy: {setting}"));
        said.push(format!("known of this server since {}: {what} ({}){setting}", day(fact.at), fact.evidence));
    };
    let stream = profile.knows(Ability::OffsetWrites) == Tried::No;
    if let Some(fact) = refusal(profile, Ability::Continues, now).filter(|_| stream) {
        say(fact, Ability::Continues, "it does not go on with an interrupted file, which would start over");
    }
    if let Some(fact) = refusal(profile, Ability::OffsetWrites, now).filter(|fact| !is_unoffered(fact)) {
        say(fact, Ability::OffsetWrites, "it does not honour write offsets; each file is sent as one stream");
    }
    if let Some(fact) = refusal(profile, Ability::Rename, now).filter(|_| options.publish != Publish::InPlace) {
        say(fact, Ability::Rename, "it refuses renames, which is tried once more before anything is sent");
    }
    if let Some(logins) = limited(profile, now) {
        said.push(format!("known of this server since {}: it grants {} login(s) at once", day(logins.at), logins.granted));
    }
    said
}

pub(crate) fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

/// What a copy found out, as something to remember. `None` if it never got to the server.
pub fn learned(destination: &str, learned: &Learned, now: Timestamp) -> Option<Profile> {
    let identity = learned.identity.as_ref()?;
    let mut profile = Profile::new(destination, Observer::Copy, now);
    profile.software = identity.software.as_deref().map(model::profile::bounded);
    profile.fingerprint = identity.host_key.clone();
    profile.address = identity.address.map(|address| address.to_string());
    profile.local_address = identity.local_address.map(|address| address.to_string());
    profile.round_trip_ms = identity.round_trip.as_secs_f64() * 1000.0;
    for fact in &identity.facts {
        profile.detail(fact.name, &fact.value);
    }
    for (ability, (works, words)) in &learned.facts {
        profile.note(*ability, *works, words, now);
    }
    profile.logins = learned.logins.as_ref().map(|(granted, words)| Logins {
        granted: *granted as u32,
        limited: true,
        evidence: model::profile::bounded(words),
        at: now,
        by: Observer::Copy,
    });
    Some(profile)
}

/// How a copy's user is told of drift.
pub fn drift_notes(drift: &[Drift]) -> Vec<String> {
    drift.iter().map(|drift| format!("this server has changed: {drift}")).collect()
}

/// All that is known, in lines for a person.
pub fn lines(profile: &Profile) -> Vec<String> {
    let mut lines = verdict::lines(profile);
    for ability in Ability::ALL {
        if let Some(fact) = profile.fact(*ability) {
            lines.push(format!("  {:<8} {} ({}; {} by {})", fact.known, ability.words(), fact.evidence, day(fact.at), fact.by));
        }
    }
    for (name, value) in &profile.details {
        lines.push(format!("  {name}: {value}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn refusing(by: Observer) -> Profile {
        let mut profile = Profile::new("ftp://u@h:21", by, at(0));
        profile.note(Ability::Rename, false, "550 no", at(0));
        profile.note(Ability::Continues, false, "451 not here", at(0));
        profile.note(Ability::OffsetWrites, false, "not offered", at(0));
        profile.note(Ability::Read, true, "read back", at(0));
        profile.logins = Some(Logins { granted: 2, limited: true, evidence: "421".into(), at: at(0), by });
        profile
    }

    #[test]
    fn only_refusals_are_believed_and_not_for_ever() {
        let day = 24 * 3600;
        let profile = refusing(Observer::Rehearse);
        let fresh = known(&profile, at(6 * day));
        assert_eq!(fresh.refused.into_iter().collect::<Vec<_>>(), [Ability::Rename, Ability::Continues]);
        assert_eq!(fresh.logins, Some(2));
        let old = known(&profile, at(8 * day));
        assert!(old.refused.is_empty() && old.logins.is_none());
        assert_eq!(known(&refusing(Observer::Copy), at(2 * day)).logins, None, "a copy may have met others' sessions");
    }

    #[test]
    fn what_is_known_is_said_before_the_first_byte() {
        let said = warnings(&refusing(Observer::Rehearse), &Options::default(), at(10));
        assert_eq!(said.len(), 3, "{said:?}");
        assert!(said[0].contains("1970-01-01") && said[0].contains("start over") && said[0].contains("451 not here"), "{said:?}");
        let in_place = Options { publish: Publish::InPlace, ..Options::default() };
        assert!(!warnings(&refusing(Observer::Rehearse), &in_place, at(10)).iter().any(|line| line.contains("rename")));
    }

    #[tokio::test]
    async fn a_profile_is_kept_brought_up_to_date_and_forgotten() {
        let store = Store::open_in_memory().await.unwrap();
        assert_eq!(load(&store, "ftp://u@h:21").await.unwrap(), None);
        assert!(!forget(&store, "ftp://u@h:21").await.unwrap());
        let (_, drift) = observe(&store, refusing(Observer::Rehearse)).await.unwrap();
        assert!(drift.is_empty());
        let mut newer = Profile::new("ftp://u@h:21", Observer::Copy, at(99));
        newer.note(Ability::Rename, true, "renamed", at(99));
        let (profile, drift) = observe(&store, newer).await.unwrap();
        assert_eq!(drift_notes(&drift).len(), 1);
        assert_eq!(load(&store, "ftp://u@h:21").await.unwrap(), Some(profile.clone()));
        assert_eq!(profile.knows(Ability::Rename), Tried::Yes);
        assert!(forget(&store, "ftp://u@h:21").await.unwrap());
        assert_eq!(load(&store, "ftp://u@h:21").await.unwrap(), None);
    }
}
