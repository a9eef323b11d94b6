//! The letter to the partner's administrator: who we are on their machine, what to confirm by another way, and which
//! settings we ask for and why. Plain text, ready to be sent.

use model::{Endpoint, Profile};

use crate::advice;
use crate::profiles::day;

/// What the letter says of us.
#[derive(Debug, Clone, Default)]
pub struct Sender {
    /// Public keys, one line each as authorized_keys has them.
    pub public_keys: Vec<String>,
    /// Where our connections come from, as far as we see it ourselves.
    pub addresses: Vec<String>,
    /// What the fingerprint is of: `host key` or `certificate`; `None` where nothing is proved.
    pub proof: Option<&'static str>,
    pub directory: String,
}

/// Width of a line.
const WIDTH: usize = 78;

pub fn letter(profile: &Profile, endpoint: &Endpoint, sender: &Sender) -> String {
    let mut text = String::new();
    let mut paragraph = |words: &str| {
        text.push_str(&wrapped(words, ""));
        text.push('\n');
    };
    let user = endpoint.user.as_deref().unwrap_or("(none)");
    let port = endpoint.port.unwrap_or(endpoint.protocol.default_port());
    paragraph("Dear administrator,");
    paragraph(&format!(
        "we deliver files to your server {}, port {port}, by {}, as the user {user}, into {}. On {} we tried it out with scratch \
         files of our own. This is what we would like to agree on.",
        endpoint.host,
        endpoint.protocol,
        sender.directory,
        day(profile.observed_at)
    ));
    text.push_str("1. Who we are\n\n");
    match sender.public_keys.as_slice() {
        [] => text.push_str(&item("We log in with the password that you gave us.")),
        keys => {
            text.push_str(&item("Our public key(s); please enter them for this user, and no password:"));
            for key in keys {
                text.push_str(&format!("\n     {key}\n"));
            }
        }
    }
    if sender.addresses.is_empty() {
        text.push_str(&item("We do not know the address that you see us come from; your log has it."));
    } else {
        text.push_str(&item(&format!(
            "Our connections come from {}. That is our own view of it: a gateway on the way may translate it, and your log has the \
             address that counts for a firewall.",
            sender.addresses.join(", ")
        )));
    }
    text.push_str("\n2. Who you are\n\n");
    match (&profile.fingerprint, sender.proof) {
        (Some(fingerprint), Some(what)) => text.push_str(&item(&format!(
            "We saw the {what} {fingerprint}. Please confirm this fingerprint by telephone or in a signed message, not over the \
             connection itself, and tell us before it changes."
        ))),
        _ => text.push_str(&item(
            "The connection is not protected: password and files can be read on the way, and nothing proves your server to us. \
             Please offer FTP with TLS or SFTP.",
        )),
    }
    text.push_str("\n3. What we ask for\n\n");
    let findings = advice::findings(profile);
    if findings.is_empty() {
        text.push_str(&item("Nothing: everything that we need works as it is."));
    }
    for finding in &findings {
        let setting = match finding.setting {
            Some(setting) => format!("Please set: {setting}."),
            None => "We do not know the setting of your server that allows it.".to_owned(),
        };
        text.push_str(&item(&format!("{}. Your server said: {}. {setting}", capital(&finding.problem), finding.evidence)));
    }
    if !profile.left_behind.is_empty() {
        text.push_str(&item(&format!(
            "We were not allowed to remove scratch files of ours; please delete: {}",
            profile.left_behind.join(", ")
        )));
    }
    text.push_str("\n4. What you will see of us\n\n");
    text.push_str(&item(
        "A file is written under a temporary name that begins with .ff- and gets its own name only when it is whole. Please let your \
         programs pass over temporary names.",
    ));
    let logins = profile.logins.as_ref().map_or(2, |logins| logins.granted.min(8));
    text.push_str(&item(&format!("We open up to {logins} session(s) at once; fewer is possible and slower.")));
    text.push_str("\nKind regards\n");
    text
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn item(text: &str) -> String {
    wrapped(text, "   ").replacen("   ", " - ", 1)
}

/// Words in lines of a bounded width; a longer word stands alone.
fn wrapped(text: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut line = indent.to_owned();
    for word in text.split_whitespace() {
        if line.trim().is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = format!("{indent}{word}");
        } else {
            line.push(' ');
            line.push_str(word);
        }
    }
    out.push_str(&line);
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use model::{Ability, Observer, Protocol};

    #[test]
    fn the_letter_asks_for_the_exact_setting_and_says_why() {
        let now = Timestamp::from_second(1_795_000_000).unwrap();
        let mut profile = Profile::new("ftpes://u@h:21", Observer::Rehearse, now);
        profile.software = Some("ProFTPD".into());
        profile.fingerprint = Some("SHA256:abc".into());
        profile.note(Ability::OffsetWrites, false, "not offered", now);
        profile.note(Ability::Continues, false, "451 Restart not permitted", now);
        profile.left("/in/.ff-x.part");
        let endpoint = Endpoint { protocol: Protocol::Ftpes, host: "ftp.example".into(), port: None, user: Some("ferry".into()) };
        let sender =
            Sender { addresses: vec!["10.0.0.7".into()], proof: Some("certificate"), directory: "/in".into(), ..Sender::default() };
        let text = letter(&profile, &endpoint, &sender);
        let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "ftp.example, port 21, by ftpes, as the user ferry, into /in",
            "the certificate SHA256:abc",
            "Please set: AllowStoreRestart on",
            "451 Restart not permitted",
            "come from 10.0.0.7",
            "may translate it",
            "please delete: /in/.ff-x.part",
            "log in with the password",
        ] {
            assert!(flat.contains(part), "{part}: {text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }

    #[test]
    fn keys_stand_on_lines_of_their_own() {
        let key = format!("ssh-ed25519 {} ferry", "A".repeat(68));
        let endpoint = Endpoint { protocol: Protocol::Sftp, host: "h".into(), port: Some(2222), user: Some("u".into()) };
        let sender = Sender { public_keys: vec![key.clone()], proof: Some("host key"), ..Sender::default() };
        let text = letter(&Profile::default(), &endpoint, &sender);
        assert!(text.lines().any(|line| line.trim() == key) && text.contains("Nothing: everything that we need works"), "{text}");
    }
}
