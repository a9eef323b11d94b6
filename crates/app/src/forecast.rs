//! What a copy can expect of a server that was looked at before: for a plan that asks the server nothing.

use std::time::Duration;

use jiff::Timestamp;
use model::{Ability, Algorithm, DigestSet, Observer, Profile, Tried};
use serde::Serialize;
use transfer::plan::{Question, plan};
use transfer::{Capabilities, NoClobber};

use crate::spec::Options;
use crate::{profiles, verdict};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    /// When the server was last looked at, and what looked closest.
    pub observed_at: Timestamp,
    pub by: Observer,
    pub software: Option<String>,
    pub resumes: Tried,
    pub atomic_replace: Tried,
    /// The grade that the largest file will get; `unknown`, or `refused` where what was asked for cannot be had.
    pub proof: String,
    /// With so many a copy begins.
    pub connections: u32,
    /// What a copy says before it begins.
    pub warnings: Vec<String>,
}

/// `largest` is the size of the largest file.
pub fn forecast(profile: &Profile, options: &Options, largest: u64, now: Timestamp) -> Forecast {
    let judged = verdict::verdict(profile);
    let round_trip = Duration::from_secs_f64(profile.round_trip_ms.clamp(0.0, 1e6) / 1000.0);
    // A server that confirms no write serves one file a connection.
    let one_file_each = profile.knows(Ability::ConfirmsWrites) != Tried::Yes;
    let wanted = options.connections.map(|wanted| wanted.max(1) as usize);
    let first =
        transfer::pool::first_connections(round_trip >= transfer::pool::FAR, one_file_each, wanted, options.lanes.max(1) as usize) as u32;
    let granted = profiles::known(profile, now).logins.map_or(u32::MAX, |granted| granted.max(1) as u32);
    let connections = first.min(granted);
    let mut warnings = profiles::warnings(profile, options, now);
    let proof = match judged.proof {
        "unknown" => "unknown".to_owned(),
        _ => match prove(profile, options, largest, connections) {
            Ok(grade) => grade.to_string(),
            Err(error) => {
                warnings.push(format!(
                    "known of this server since {}: {}",
                    profiles::day(profile.observed_at),
                    transfer::error::chain(&error)
                ));
                "refused".to_owned()
            }
        },
    };
    Forecast {
        observed_at: profile.observed_at,
        by: profile.by,
        software: profile.software.clone(),
        resumes: judged.resumes,
        atomic_replace: judged.atomic_replace,
        proof,
        connections,
        warnings,
    }
}

/// The copy's own decision, on what is known instead of on what a session says.
fn prove(profile: &Profile, options: &Options, size: u64, connections: u32) -> transfer::Result<model::Grade> {
    let yes = |ability: Ability| profile.knows(ability) == Tried::Yes;
    let hashes = [(Algorithm::Sha256, Ability::HashSha256), (Algorithm::Md5, Ability::HashMd5)];
    let capabilities = Capabilities {
        offset_writes: yes(Ability::OffsetWrites),
        confirms_writes: yes(Ability::ConfirmsWrites),
        continues: yes(Ability::Continues),
        read: yes(Ability::Read),
        sync: yes(Ability::Sync),
        no_clobber: NoClobber::Unsupported,
        atomic_replace: yes(Ability::Replace),
        exact_names: false,
        set_times: yes(Ability::SetTimes),
        set_mode: yes(Ability::SetMode),
        hashes: hashes.into_iter().filter(|(_, ability)| yes(*ability)).map(|(algorithm, _)| algorithm).collect(),
        multiplex: 1,
        max_write: 0,
        free_space: false,
    };
    let question = Question {
        size,
        verify: options.least_proof(),
        digests: DigestSet::default(),
        publish: options.publish,
        capabilities: &capabilities,
        thresholds: options.thresholds,
        connections: u64::from(connections),
        resumed: false,
        after_mismatch: false,
    };
    plan(&question).map(|plan| plan.grade)
}

impl Forecast {
    /// One line for a person; the warnings are lines of their own.
    pub fn line(&self) -> String {
        let connections = if self.connections == 1 { "1 connection".to_owned() } else { format!("{} connections", self.connections) };
        format!(
            "known of this server, last seen on {}: resumes: {} · atomic replace: {} · proof of the largest file: {} · begins with {connections}",
            profiles::day(self.observed_at),
            self.resumes,
            self.atomic_replace,
            self.proof
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Grade, Logins, Verify};

    fn seen() -> Profile {
        let mut profile = Profile::new("ftp://u@h:21", Observer::Rehearse, Timestamp::UNIX_EPOCH);
        for (ability, known) in [(Ability::Resumes, true), (Ability::Replace, false), (Ability::Read, true), (Ability::Continues, true)] {
            profile.note(ability, known, "tried", Timestamp::UNIX_EPOCH);
        }
        profile
    }

    fn of(profile: &Profile, options: &Options, largest: u64) -> Forecast {
        forecast(profile, options, largest, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_forecast_is_what_a_copy_would_decide() {
        let near = of(&seen(), &Options::default(), 10);
        let line = "known of this server, last seen on 1970-01-01: resumes: yes · atomic replace: no · \
                    proof of the largest file: read-back · begins with 2 connections";
        assert_eq!((near.line().as_str(), near.warnings.len()), (line, 0));
        assert_eq!(of(&seen(), &Options::default(), 2 << 30).proof, "sampled");
        let far = Profile { round_trip_ms: 30.0, ..seen() };
        assert_eq!(of(&far, &Options::default(), 10).connections, 4);
        let seven = Options { connections: Some(7), ..Options::default() };
        assert_eq!(of(&far, &seven, 10).connections, 4);
        assert_eq!(of(&far, &Options { lanes: 3, ..Options::default() }, 10).connections, 3);
        let mut confirming = far.clone();
        confirming.note(Ability::ConfirmsWrites, true, "tried", Timestamp::UNIX_EPOCH);
        assert_eq!(of(&confirming, &seven, 10).connections, 7);
        let logins = Logins { granted: 3, limited: true, evidence: "421".into(), at: Timestamp::UNIX_EPOCH, by: Observer::Rehearse };
        let strict = Profile { logins: Some(logins), ..far };
        let strict = of(&strict, &Options::default(), 10);
        assert_eq!((strict.connections, strict.warnings.len()), (3, 1));
    }

    #[test]
    fn what_nobody_looked_at_is_unknown_and_what_cannot_be_had_is_refused() {
        let hashes = Options { verify: Verify::AtLeast(Grade::ServerHash), ..Options::default() };
        let refused = of(&seen(), &hashes, 10);
        assert_eq!((refused.proof.as_str(), refused.warnings.len()), ("refused", 1), "{refused:?}");
        assert!(refused.warnings[0].contains("--verify server-hash"), "{refused:?}");
        let nothing = Profile::new("d", Observer::Copy, Timestamp::UNIX_EPOCH);
        assert_eq!((of(&nothing, &hashes, 10).proof.as_str(), of(&nothing, &hashes, 10).resumes), ("unknown", Tried::Unknown));
    }
}
