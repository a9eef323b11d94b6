//! What follows from a refusal: what it costs us, and which setting of the partner's server would lift it, as far as the
//! server's name tells which one that is.

use model::{Ability, ErrorClass, Profile, Tried};

use crate::profiles::day;

/// Servers whose settings we know. A banner may hide or lie about it; then nothing but the wish is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Software {
    OpenSsh,
    Vsftpd,
    Proftpd,
    PureFtpd,
    Pyftpdlib,
    Other,
}

pub fn software(profile: &Profile) -> Software {
    let name = profile.software.as_deref().unwrap_or_default().to_ascii_lowercase();
    let known = [
        ("openssh", Software::OpenSsh),
        ("vsftpd", Software::Vsftpd),
        ("proftpd", Software::Proftpd),
        ("pure-ftpd", Software::PureFtpd),
        ("pyftpdlib", Software::Pyftpdlib),
    ];
    known.into_iter().find(|(text, _)| name.contains(text)).map_or(Software::Other, |(_, software)| software)
}

/// Something to ask the partner for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The ability that is missing, by its stored name; `logins` for their number.
    pub what: &'static str,
    /// In words: what the server does not do, and what that means for us.
    pub problem: String,
    pub evidence: String,
    /// The exact setting where the software is known.
    pub setting: Option<&'static str>,
}

/// What the refusal of an ability costs. `None`: nothing that is worth a letter.
fn cost(profile: &Profile, ability: Ability) -> Option<&'static str> {
    let stream = profile.knows(Ability::OffsetWrites) == Tried::No;
    Some(match ability {
        Ability::Write => "nothing can be delivered",
        Ability::Faithful => "nothing that is delivered can be trusted",
        Ability::Stat => "nobody can see whether a file has arrived whole",
        Ability::List => "names that the server changes are not found out",
        Ability::Read => "a delivery cannot be proved by reading it back",
        Ability::Remove => "temporary files of interrupted deliveries stay",
        Ability::Rename => "a file would be seen under its final name while it is still incomplete",
        Ability::Replace => "a newer version cannot take the place of an older one in one step",
        Ability::OffsetWrites if profile.fact(ability).is_none_or(|fact| fact.evidence != "not offered") => {
            "large files travel over one connection only"
        }
        Ability::Continues if stream => "an interrupted file starts over from its beginning",
        Ability::Resumes => "an interrupted file starts over from its beginning",
        _ => return None,
    })
}

pub fn findings(profile: &Profile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ability in Ability::ALL {
        let Some(fact) = profile.fact(*ability).filter(|fact| fact.known == Tried::No) else { continue };
        // One cause is told once.
        let told = *ability == Ability::Resumes && profile.knows(Ability::Continues) == Tried::No
            || *ability == Ability::Replace && profile.knows(Ability::Rename) == Tried::No;
        let Some(cost) = cost(profile, *ability).filter(|_| !told) else { continue };
        findings.push(Finding {
            what: ability.name(),
            problem: format!("the server does not do this: {}; {cost}", ability.words()),
            evidence: fact.evidence.clone(),
            setting: setting(profile, *ability),
        });
    }
    if let Some(logins) = profile.logins.as_ref().filter(|logins| logins.limited && logins.granted < 4) {
        findings.push(Finding {
            what: "logins",
            problem: format!("the server grants {} login(s) at once; files wait for each other", logins.granted),
            evidence: logins.evidence.clone(),
            setting: logins_setting(profile),
        });
    }
    findings
}

fn logins_setting(profile: &Profile) -> Option<&'static str> {
    Some(match software(profile) {
        Software::OpenSsh => "raise MaxStartups in sshd_config, and maxlogins of pam_limits where it is set",
        Software::Vsftpd => "max_per_ip=8 or more, and max_clients above the sum of all partners",
        Software::Proftpd => "MaxClientsPerHost 8 and MaxClientsPerUser 8, or more",
        Software::PureFtpd => "--maxclientsperip 8 (-C 8) or more",
        Software::Pyftpdlib => "FTPServer.max_cons_per_ip = 8 or more",
        Software::Other => return None,
    })
}

/// The setting that lifts a refusal, where the software is known.
pub fn setting(profile: &Profile, ability: Ability) -> Option<&'static str> {
    use Ability as A;
    Some(match (software(profile), ability) {
        (Software::OpenSsh, A::Rename | A::Replace) => "take rename and posix-rename out of the requests that sftp-server denies (-P)",
        (Software::OpenSsh, A::SetTimes | A::SetMode) => "take setstat and fsetstat out of the requests that sftp-server denies (-P)",
        (Software::OpenSsh, A::Sync) => "take fsync out of the requests that sftp-server denies (-P)",
        (Software::OpenSsh, A::Remove) => "take remove out of the requests that sftp-server denies (-P)",
        (Software::OpenSsh, A::Stat | A::Read | A::List | A::Write) => {
            "give the account the directory with mode 0700, and let sftp-server deny no request of it (-P)"
        }
        (Software::Vsftpd, A::Write) => "write_enable=YES, and anon_upload_enable=YES for virtual users",
        (Software::Vsftpd, A::Continues) => "take REST out of cmds_denied",
        (Software::Vsftpd, A::Resumes) => "lock_upload_files=NO, so that a broken session does not keep the file locked",
        (Software::Vsftpd, A::Rename | A::Replace) => {
            "take RNFR and RNTO out of cmds_denied; anon_other_write_enable=YES for virtual users"
        }
        (Software::Vsftpd, A::Remove | A::Overwrite) => "take DELE out of cmds_denied; anon_other_write_enable=YES for virtual users",
        (Software::Vsftpd, A::Read) => "download_enable=YES, anon_world_readable_only=NO, and chown_uploads=NO so that our files stay ours",
        (Software::Vsftpd, A::List) => "dirlist_enable=YES",
        (Software::Vsftpd, A::Stat) => "take SIZE out of cmds_denied",
        (Software::Vsftpd, A::MakeDirectory) => "anon_mkdir_write_enable=YES for virtual users",
        (Software::Vsftpd, A::SetTimes) => "mdtm_write=YES",
        (Software::Vsftpd, A::SetMode) => "chmod_enable=YES",
        (Software::Vsftpd, A::Tls13) => "vsftpd 3.0.5 with ssl_tlsv1_3=YES",
        (Software::Proftpd, A::Continues | A::Resumes) => "AllowStoreRestart on, together with AllowOverwrite on",
        (Software::Proftpd, A::Replace | A::Overwrite) => "AllowOverwrite on",
        (Software::Proftpd, A::HashSha256 | A::HashMd5) => "LoadModule mod_digest.c",
        (Software::Proftpd, A::Rename) => "<Limit RNFR RNTO> AllowAll </Limit> for the directory",
        (Software::Proftpd, A::Remove) => "<Limit DELE> AllowAll </Limit> for the directory",
        (Software::Proftpd, A::Read) => "<Limit RETR> AllowAll </Limit> for the directory",
        (Software::Proftpd, A::List) => "<Limit LIST MLSD NLST> AllowAll </Limit> for the directory",
        (Software::Proftpd, A::Stat) => "<Limit SIZE MLST> AllowAll </Limit> for the directory",
        (Software::Proftpd, A::Write) => "<Limit STOR> AllowAll </Limit> for the directory",
        (Software::Proftpd, A::SetTimes) => "LoadModule mod_facts.c, and <Limit MFMT> AllowAll </Limit>",
        (Software::Proftpd, A::SetMode) => "<Limit SITE_CHMOD> AllowAll </Limit>",
        (Software::Proftpd, A::Tls13) => "TLSProtocol TLSv1.2 TLSv1.3",
        (Software::PureFtpd, A::Rename | A::Replace) => "start it without --norename (-G)",
        (Software::PureFtpd, A::Remove) => "start it without --keepallfiles (-K)",
        (Software::PureFtpd, A::Overwrite) => "start it without --autorename (-r)",
        (Software::PureFtpd, A::SetMode) => "start it without --nochmod (-R)",
        (Software::Pyftpdlib, A::Rename | A::Replace) => "the permission letter f for this user",
        (Software::Pyftpdlib, A::Remove) => "the permission letter d for this user",
        (Software::Pyftpdlib, A::Read) => "the permission letter r for this user",
        (Software::Pyftpdlib, A::List) => "the permission letters e and l for this user",
        (Software::Pyftpdlib, A::Write | A::Overwrite) => "the permission letter w for this user",
        (Software::Pyftpdlib, A::Continues | A::Resumes) => "the permission letters a and w for this user",
        (Software::Pyftpdlib, A::MakeDirectory) => "the permission letter m for this user",
        (Software::Pyftpdlib, A::SetMode) => "the permission letter M for this user",
        (Software::Pyftpdlib, A::SetTimes) => "the permission letter T for this user",
        _ => return None,
    })
}

/// What is known that may explain a failure, with its date and the setting that would help.
pub fn for_failure(profile: &Profile, class: ErrorClass) -> Option<String> {
    let suspects: &[(Ability, &str, &str)] = match class {
        ErrorClass::DestPublishFailed => &[(Ability::Rename, "a rename", "; --publish in-place does without")],
        ErrorClass::DestExists => &[(Ability::Replace, "to replace a file by a rename", "; --if-exists replace-unsafe does without")],
        ErrorClass::NetworkReset | ErrorClass::NetworkStalled => &[(Ability::Continues, "to go on with an interrupted file", "")],
        ErrorClass::DestDenied => &[(Ability::Write, "a file", ""), (Ability::Read, "to let us read our own file", "")],
        ErrorClass::DestNameInvalid => &[
            (Ability::KeepsSpaces, "to keep a space at the end of a name", ""),
            (Ability::KeepsCase, "to tell upper case from lower case", ""),
            (Ability::KeepsDots, "to keep a dot at the end of a name", ""),
            (Ability::KeepsUnicode, "to keep the Unicode form of a name", ""),
            (Ability::LongNames, "a name of 255 bytes", ""),
        ],
        ErrorClass::IntegrityMismatch => &[(Ability::Faithful, "to store what it was sent", ""), (Ability::OffsetWrites, "offsets", "")],
        _ => &[],
    };
    let refused = |ability: &Ability| profile.fact(*ability).filter(|fact| fact.known == Tried::No);
    if let Some((fact, ability, what, instead)) = suspects.iter().find_map(|(a, what, instead)| Some((refused(a)?, a, what, instead))) {
        let setting = setting(profile, *ability).map_or(String::new(), |setting| format!("; have the partner set: {setting}"));
        return Some(format!("this server refused {what} on {} ({}){setting}{instead}", day(fact.at), fact.evidence));
    }
    let logins = profile.logins.as_ref().filter(|logins| logins.limited && class == ErrorClass::DestUnreachable)?;
    let setting = logins_setting(profile).map_or(String::new(), |setting| format!("; have the partner set: {setting}"));
    Some(format!("this server granted {} login(s) at once on {} ({}){setting}", logins.granted, day(logins.at), logins.evidence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use model::Observer;

    fn proftpd() -> Profile {
        let at = Timestamp::from_second(1_795_000_000).unwrap();
        let mut profile = Profile::new("ftp://u@h:21", Observer::Rehearse, at);
        profile.software = Some("ProFTPD Server (Debian)".into());
        profile.note(Ability::OffsetWrites, false, "not offered", at);
        profile.note(Ability::Continues, false, "451 not permitted", at);
        profile.note(Ability::Resumes, false, "continuing: 451 not permitted", at);
        profile
    }

    #[test]
    fn a_refusal_is_told_once_with_the_setting_that_lifts_it() {
        let found = findings(&proftpd());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].what, found[0].evidence.as_str()), ("continues", "451 not permitted"));
        assert!(found[0].setting.unwrap().contains("AllowStoreRestart on"));
    }

    #[test]
    fn a_failure_names_what_was_learnt_and_when() {
        let said = for_failure(&proftpd(), ErrorClass::NetworkReset).unwrap();
        assert!(said.contains("refused to go on") && said.contains("2026-11-18") && said.contains("AllowStoreRestart on"), "{said}");
        assert_eq!(for_failure(&proftpd(), ErrorClass::DestNoSpace), None);
        assert_eq!(for_failure(&Profile::default(), ErrorClass::DestPublishFailed), None);
    }

    #[test]
    fn software_is_recognised_by_its_banner_and_not_guessed() {
        let named = |name: &str| software(&Profile { software: Some(name.into()), ..Profile::default() });
        assert_eq!(named("SSH-2.0-OpenSSH_9.2p1 Debian"), Software::OpenSsh);
        assert_eq!(named("(vsFTPd 3.0.3)"), Software::Vsftpd);
        assert_eq!(named("---------- Welcome to Pure-FTPd [privsep] [TLS] ----------"), Software::PureFtpd);
        assert_eq!(named("Welcome"), Software::Other);
    }
}
