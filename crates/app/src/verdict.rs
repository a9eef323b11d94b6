//! A profile in a few lines: will it resume, replace, prove; how long a large delivery takes; what to ask for.

use model::{Ability, ByteCount, Profile, Tried};
use serde::Serialize;
use transfer::pool::first_connections;

use crate::advice;

/// One terabyte, as disks and partners count.
const TERABYTE: f64 = 1e12;
/// From this round trip on several connections bring more than one.
const FAR_MS: f64 = 10.0;

/// What a copy can count on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub resumes: Tried,
    pub atomic_replace: Tried,
    /// The best grade that can be had, as far as it is known.
    pub proof: &'static str,
    /// `None` when nothing was measured.
    pub terabyte_seconds: Option<u64>,
    pub connections: u32,
    /// Bytes from which that is estimated.
    pub measured_bytes: u64,
}

pub fn verdict(profile: &Profile) -> Verdict {
    let resumes = match profile.knows(Ability::Resumes) {
        Tried::Unknown if profile.knows(Ability::OffsetWrites) != Tried::No => profile.knows(Ability::OffsetWrites),
        Tried::Unknown => profile.knows(Ability::Continues),
        known => known,
    };
    let yes = |ability: Ability| profile.knows(ability) == Tried::Yes;
    let proof = if profile.knows(Ability::Faithful) == Tried::No {
        "none"
    } else if yes(Ability::HashSha256) || yes(Ability::HashMd5) {
        "server-hash"
    } else if yes(Ability::Read) {
        "read-back"
    } else if profile.knows(Ability::Read) == Tried::Unknown {
        "unknown"
    } else if yes(Ability::ConfirmsWrites) {
        "acknowledged"
    } else if yes(Ability::Stat) {
        "size"
    } else {
        "none"
    };
    let granted = profile.logins.as_ref().map_or(1, |logins| logins.granted.max(1));
    // A server that confirms no write serves one file a connection.
    let one_file_each = !yes(Ability::ConfirmsWrites);
    let most = first_connections(true, one_file_each, None, usize::MAX) as u32;
    let connections = if profile.round_trip_ms >= FAR_MS { granted.min(most) } else { 1 };
    let terabyte_seconds = profile.rate.map(|rate| (TERABYTE / (rate.per_second() * f64::from(connections)).max(1.0)) as u64);
    Verdict {
        resumes,
        atomic_replace: profile.knows(Ability::Replace),
        proof,
        terabyte_seconds,
        connections,
        measured_bytes: profile.rate.map_or(0, |rate| rate.bytes),
    }
}

/// `2 h 40`, `25 min`, `50 s`, `12 days`.
fn how_long(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=5399 => format!("{} min", seconds / 60),
        5400..=172_799 => format!("{} h {:02}", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

pub fn lines(profile: &Profile) -> Vec<String> {
    let judged = verdict(profile);
    let mut first = vec![profile.software.clone().unwrap_or_else(|| "a server that does not tell its name".to_owned())];
    first.extend(profile.address.as_ref().map(|address| format!("at {address}")));
    let mut lines = vec![format!("{}, round trip {:.1} ms", first.join(" "), profile.round_trip_ms)];
    let mut parts = vec![
        format!("resumes: {}", judged.resumes),
        format!("atomic replace: {}", judged.atomic_replace),
        format!("proof: {}", judged.proof),
    ];
    if let Some(seconds) = judged.terabyte_seconds {
        let over = if judged.connections == 1 { "1 connection".to_owned() } else { format!("{} connections", judged.connections) };
        parts.push(format!("1 TB ≈ {} over {over} (an estimate from {})", how_long(seconds), ByteCount(judged.measured_bytes)));
    }
    lines.push(parts.join(" · "));
    let mut more = Vec::new();
    if let Some(logins) = &profile.logins {
        more.push(format!("logins: {}{}", if logins.limited { "" } else { "at least " }, logins.granted));
    }
    let names = [Ability::KeepsCase, Ability::KeepsSpaces, Ability::KeepsDots, Ability::KeepsUnicode, Ability::LongNames];
    let changed: Vec<&str> = names.into_iter().filter(|ability| profile.knows(*ability) == Tried::No).map(Ability::name).collect();
    if names.into_iter().any(|ability| profile.knows(ability) != Tried::Unknown) {
        more.push(if changed.is_empty() { "names: kept".to_owned() } else { format!("names: not {}", changed.join(", not ")) });
    }
    more.push(format!("times: {}", profile.knows(Ability::SetTimes)));
    more.extend(profile.free_bytes.map(|bytes| format!("free: {}", ByteCount(bytes))));
    more.extend(profile.details.get("tls").map(|tls| {
        let newer = profile.knows(Ability::Tls13) == Tried::Yes && tls != "TLS 1.3";
        if newer { format!("{tls} and 1.3") } else { tls.clone() }
    }));
    lines.push(more.join(" · "));
    for finding in advice::findings(profile) {
        let setting = finding.setting.map_or(String::new(), |setting| format!("; setting: {setting}"));
        lines.push(format!("- {} ({}){setting}", finding.problem, finding.evidence));
    }
    for path in &profile.left_behind {
        lines.push(format!("- left behind, because it could not be removed: {path}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use model::{Observer, Throughput};

    #[test]
    fn a_verdict_is_one_line_and_says_what_is_estimated() {
        let now = Timestamp::UNIX_EPOCH;
        let mut profile = Profile::new("ftp://u@h:21", Observer::Rehearse, now);
        profile.note(Ability::Resumes, true, "", now);
        profile.note(Ability::Replace, false, "550", now);
        profile.note(Ability::Read, true, "", now);
        profile.round_trip_ms = 50.0;
        profile.logins = Some(model::Logins { granted: 8, limited: false, evidence: String::new(), at: now, by: Observer::Rehearse });
        profile.rate = Some(Throughput { bytes: 8 << 20, seconds: (8 << 20) as f64 / 26e6 });
        let said = lines(&profile);
        let wanted = "resumes: yes · atomic replace: no · proof: read-back · 1 TB ≈ 2 h 40 over 4 connections (an estimate from 8.0 MiB)";
        assert_eq!(said[1], wanted);
        assert!(said.iter().any(|line| line.contains("logins: at least 8")), "{said:?}");
        profile.note(Ability::ConfirmsWrites, true, "", now);
        assert!(lines(&profile)[1].contains("over 5 connections"), "ranges of one file travel over more: {said:?}");
    }

    #[test]
    fn nothing_is_promised_that_was_not_seen() {
        let judged = verdict(&Profile::default());
        assert_eq!((judged.resumes, judged.atomic_replace, judged.proof), (Tried::Unknown, Tried::Unknown, "unknown"));
        assert_eq!(judged.terabyte_seconds, None);
        let mut lying = Profile::default();
        lying.note(Ability::Faithful, false, "differs", Timestamp::UNIX_EPOCH);
        lying.note(Ability::Read, true, "", Timestamp::UNIX_EPOCH);
        assert_eq!(verdict(&lying).proof, "none");
    }

    #[test]
    fn times_are_told_as_people_do() {
        let told: Vec<String> = [50, 1500, 9600, 86_400 * 12].into_iter().map(how_long).collect();
        assert_eq!(told, ["50 s", "25 min", "2 h 40", "12 days"]);
    }
}
