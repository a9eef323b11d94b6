//! Logs in: keys, agent, password and questions, in the order the server allows and never one secret twice.

use std::collections::VecDeque;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::escape_name;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse as Answer};
use russh::keys::agent::AgentIdentity;
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use russh::{MethodKind, MethodSet};
use tokio::time::Instant;

use super::config::{Algorithms, Identity, Secret, SftpConfig};
use super::connect::{ClientHandler, Ended, Observed};
use super::keys::{Agent, KeyFile, KeySigner, open_agent, read_certificate};
use crate::error::{Error, ErrorKind, Result, Subject};

/// OpenSSH's server ends the session at the sixth failure; one is left for the password.
const MAX_KEY_TRIES: usize = 5;
const MAX_STEPS: usize = 24;
const MAX_ROUNDS: usize = 8;
const MAX_PROMPTS: usize = 8;

/// Proves the user to a server that has been proved to us. Returns notes for the receipt.
pub(super) async fn log_in(
    handle: &mut Handle<ClientHandler>,
    config: &SftpConfig,
    observed: &Observed,
    deadline: Instant,
) -> Result<Vec<String>> {
    let mut login = Login {
        handle,
        config,
        observed,
        deadline,
        tried: Vec::new(),
        looked: Vec::new(),
        notes: Vec::new(),
        candidates: None,
        agent: None,
        key_tries: 0,
        rejected: 0,
        password: Password::Untried,
        in_flight: None,
        rsa_hash: None,
        wanted: MethodSet::empty(),
    };
    login.run().await?;
    Ok(login.notes)
}

enum Candidate {
    File(Box<KeyFile>),
    /// An unlocked key whose certificate was refused.
    Key {
        label: String,
        key: Arc<PrivateKey>,
    },
    Agent {
        label: String,
        identity: Box<AgentIdentity>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Password {
    Untried,
    Accepted,
    /// Refused, or nobody has one.
    Spent,
}

enum Outcome {
    Success,
    Refused {
        partial: bool,
    },
    /// Nothing was sent; the reason is noted.
    Skipped,
}

struct Login<'a> {
    handle: &'a mut Handle<ClientHandler>,
    config: &'a SftpConfig,
    observed: &'a Observed,
    deadline: Instant,
    /// What was sent or could not be, in order.
    tried: Vec<String>,
    /// Where a credential was looked for in vain.
    looked: Vec<String>,
    notes: Vec<String>,
    candidates: Option<VecDeque<Candidate>>,
    agent: Option<Agent>,
    key_tries: usize,
    rejected: usize,
    password: Password,
    /// Bytes received when the password went out; set until the server answers.
    in_flight: Option<u64>,
    /// `Some(None)`: the server takes no RSA signature that we would make.
    rsa_hash: Option<Option<RsaHash>>,
    wanted: MethodSet,
}

type RsaHash = Option<HashAlg>;

impl Login<'_> {
    async fn run(&mut self) -> Result<()> {
        let user = self.config.user().to_owned();
        // Asking for "none" tells which methods there are, so that no secret goes where it is not wanted.
        let first = within(self.deadline, self.handle.authenticate_none(&user)).await;
        let mut outcome = self.took(first, None).await?;
        if matches!(outcome, Outcome::Success) {
            self.notes.push("the server asked for no proof of the user".to_owned());
            return Ok(());
        }
        for _ in 0..MAX_STEPS {
            outcome = if self.wants(MethodKind::PublicKey)
                && let Some(candidate) = self.next_key().await
            {
                self.try_key(candidate).await?
            } else if self.wants(MethodKind::Password) && self.password == Password::Untried {
                self.try_password().await?
            } else if self.wants(MethodKind::KeyboardInteractive) && self.may_answer() {
                self.answer_questions().await?
            } else {
                return Err(self.refused());
            };
            if matches!(outcome, Outcome::Success) {
                return Ok(());
            }
        }
        Err(self.refused())
    }

    fn wants(&self, method: MethodKind) -> bool {
        self.wanted.contains(&method)
    }

    /// A password that was refused is not offered again under another name; one that was accepted is no answer to what comes next.
    fn may_answer(&self) -> bool {
        match self.password {
            Password::Untried => true,
            Password::Accepted => self.config.prompt.is_some(),
            Password::Spent => false,
        }
    }

    /// Books the server's answer to one request.
    async fn took<E>(&mut self, answer: Option<Result<AuthResult, E>>, label: Option<String>) -> Result<Outcome>
    where
        E: Into<LoginError>,
    {
        let Some(answer) = answer else { return Err(self.timed_out(label)) };
        match answer.map_err(Into::into) {
            Ok(AuthResult::Success) => Ok(Outcome::Success),
            Ok(AuthResult::Failure { remaining_methods, partial_success }) => self.booked(remaining_methods, partial_success, label).await,
            Err(LoginError::Signer(why)) => {
                self.tried.extend(label.map(|label| format!("{label} (could not sign: {})", escape_name(&why))));
                Ok(Outcome::Skipped)
            }
            Err(LoginError::Session) => Err(self.ended(label).await),
        }
    }

    async fn booked(&mut self, remaining: MethodSet, partial: bool, label: Option<String>) -> Result<Outcome> {
        // russh reports a lost session as a refusal that leaves no method.
        if remaining.is_empty() && self.observed.ended().is_some() {
            return Err(self.ended(label).await);
        }
        if let Some(label) = label {
            self.tried.push(format!("{label} ({})", if partial { "accepted" } else { "refused" }));
            self.rejected += usize::from(!partial);
        }
        self.in_flight = None;
        self.wanted = remaining;
        Ok(Outcome::Refused { partial })
    }

    // Keys

    async fn next_key(&mut self) -> Option<Candidate> {
        if self.candidates.is_none() {
            let candidates = self.gather().await;
            self.candidates = Some(candidates);
        }
        let candidates = self.candidates.as_mut().filter(|c| !c.is_empty())?;
        if self.key_tries >= MAX_KEY_TRIES {
            self.notes.push(format!("{} more keys were not tried", candidates.len()));
            self.tried.push(format!("{} more keys not tried, because servers count attempts", candidates.len()));
            candidates.clear();
            return None;
        }
        candidates.pop_front()
    }

    async fn gather(&mut self) -> VecDeque<Candidate> {
        let (identities, named) = (self.config.identities.clone(), self.config.certificates.clone());
        let inline = self.config.inline_keys.clone();
        let read = move || {
            let files = identities.iter().map(|identity| (identity.clone(), KeyFile::read(identity)));
            let files: Vec<_> = inline.iter().map(KeyFile::inline).chain(files).collect();
            let certificates: Vec<_> = named.into_iter().map(|path| (read_certificate(&path), path)).collect();
            (files, certificates)
        };
        let (mut files, named): (Vec<(Identity, _)>, Vec<_>) = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        let held = self.agent_keys().await;
        let certificates = self.certificates(named);
        for file in files.iter_mut().filter_map(|(_, file)| file.as_mut().ok()?.as_mut()) {
            let own = |certificate: &&Certificate| file.public.as_ref().is_some_and(|p| p.key_data() == certificate.public_key());
            file.certificate = certificates.iter().find(own).cloned().or(file.certificate.take());
        }
        let (mut used, mut candidates) = (vec![false; held.len()], VecDeque::new());
        for (identity, file) in files {
            let path = identity.path.display();
            match file {
                Err(why) => self.tried.push(escape_name(&format!("key {path} ({why})"))),
                Ok(None) if identity.named => self.tried.push(escape_name(&format!("key {path} (no such file)"))),
                Ok(None) => self.looked.push(format!("no key {path}")),
                Ok(Some(file)) => {
                    let same = |held: &AgentIdentity| file.public.as_ref().is_some_and(|p| p.key_data() == held.public_key().key_data());
                    let position = held.iter().position(same);
                    // The agent spares the passphrase of a key that it has already.
                    match position {
                        Some(index) if file.encrypted && file.passphrase.is_none() => {
                            used[index] = true;
                            let label = escape_name(&format!("key {path} in the agent"));
                            if let Some(certificate) = file.certificate {
                                candidates.push_back(certified(&label, certificate));
                            }
                            candidates.push_back(Candidate::Agent { label, identity: Box::new(held[index].clone()) });
                        }
                        _ => {
                            if let Some(index) = position {
                                used[index] = true;
                            }
                            candidates.push_back(Candidate::File(Box::new(file)));
                        }
                    }
                }
            }
        }
        if !self.config.identities_only {
            for (identity, _) in held.into_iter().zip(used).filter(|(_, used)| !used) {
                let label = escape_name(&format!("agent key {:?}", clip(identity.comment())));
                let same = |certificate: &&Certificate| identity.public_key().key_data() == certificate.public_key();
                if let (AgentIdentity::PublicKey { .. }, Some(certificate)) = (&identity, certificates.iter().find(same)) {
                    candidates.push_back(certified(&label, certificate.clone()));
                }
                candidates.push_back(Candidate::Agent { label, identity: Box::new(identity) });
            }
        }
        candidates
    }

    /// What `CertificateFile` names; one that cannot be read is worth a word.
    fn certificates(&mut self, named: Vec<(Result<Option<Certificate>, String>, PathBuf)>) -> Vec<Certificate> {
        let mut certificates = Vec::new();
        for (read, path) in named {
            match read {
                Ok(Some(certificate)) => certificates.push(certificate),
                Ok(None) => self.looked.push(escape_name(&format!("no certificate {}", path.display()))),
                Err(why) => self.tried.push(escape_name(&format!("certificate {} ({why})", path.display()))),
            }
        }
        certificates
    }

    async fn agent_keys(&mut self) -> Vec<AgentIdentity> {
        let socket: &Path = match &self.config.agent_socket {
            Some(socket) if self.config.use_agent => socket,
            _ => {
                self.looked.push("no agent".to_owned());
                return Vec::new();
            }
        };
        match open_agent(socket, self.handle.agent_session_binding()).await {
            Ok((agent, identities)) => {
                if identities.is_empty() {
                    self.looked.push("no key in the agent".to_owned());
                }
                self.agent = Some(agent);
                identities
            }
            Err(why) => {
                self.looked.push(escape_name(&format!("no agent at {} ({why})", socket.display())));
                Vec::new()
            }
        }
    }

    async fn try_key(&mut self, candidate: Candidate) -> Result<Outcome> {
        match candidate {
            Candidate::File(file) => self.try_file(*file).await,
            Candidate::Key { label, key } => self.try_plain(label, key).await,
            Candidate::Agent { label, identity } => self.try_agent(label, *identity).await,
        }
    }

    async fn try_file(&mut self, file: KeyFile) -> Result<Outcome> {
        let label = escape_name(&format!("key {}", file.path.display()));
        let mut passphrase = file.passphrase.clone();
        if file.encrypted && passphrase.is_none() {
            passphrase = self.ask(format!("passphrase of {}", file.path.display())).await;
            if passphrase.is_none() {
                self.tried.push(format!("{label} (encrypted, and no passphrase was given)"));
                return Ok(Outcome::Skipped);
            }
        }
        let unlocking = tokio::task::spawn_blocking(move || (file.unlock(passphrase.as_ref()), file.certificate));
        let (key, certificate) = match unlocking.await {
            Ok((Ok(key), certificate)) => (Arc::new(key), certificate),
            Ok((Err(why), _)) => {
                self.tried.push(format!("{label} ({})", escape_name(&why)));
                return Ok(Outcome::Skipped);
            }
            Err(_) => return Ok(Outcome::Skipped),
        };
        let Some(certificate) = certificate else { return self.try_plain(label, key).await };
        let Some(hash) = self.hash_for(&certificate.algorithm(), &label).await? else { return Ok(Outcome::Skipped) };
        self.key_tries += 1;
        let user = self.config.user().to_owned();
        let mut signer = KeySigner(&key);
        let answer = within(self.deadline, self.handle.authenticate_certificate_with(user, certificate, hash, &mut signer)).await;
        let outcome = self.took(answer, Some(format!("{label} with its certificate"))).await?;
        if matches!(outcome, Outcome::Refused { partial: false }) {
            self.candidates.get_or_insert_default().push_front(Candidate::Key { label, key: key.clone() });
        }
        Ok(outcome)
    }

    async fn try_plain(&mut self, label: String, key: Arc<PrivateKey>) -> Result<Outcome> {
        let Some(hash) = self.hash_for(&key.algorithm(), &label).await? else { return Ok(Outcome::Skipped) };
        self.key_tries += 1;
        let key = PrivateKeyWithHashAlg::new(key, hash);
        let answer = within(self.deadline, self.handle.authenticate_publickey(self.config.user(), key)).await;
        self.took(answer, Some(label)).await
    }

    async fn try_agent(&mut self, label: String, identity: AgentIdentity) -> Result<Outcome> {
        let algorithm = identity.public_key().algorithm();
        let Some(hash) = self.hash_for(&algorithm, &label).await? else { return Ok(Outcome::Skipped) };
        let Some(mut agent) = self.agent.take() else { return Ok(Outcome::Skipped) };
        self.key_tries += 1;
        let user = self.config.user().to_owned();
        let answer = match identity {
            AgentIdentity::PublicKey { key, .. } => {
                within(self.deadline, self.handle.authenticate_publickey_with(user, key, hash, &mut agent)).await
            }
            AgentIdentity::Certificate { certificate, .. } => {
                within(self.deadline, self.handle.authenticate_certificate_with(user, certificate, hash, &mut agent)).await
            }
        };
        self.agent = Some(agent);
        self.took(answer, Some(label)).await
    }

    /// The hash to sign with: `Some(None)` where the algorithm leaves no choice, `None` where we would have to use SHA-1.
    async fn hash_for(&mut self, algorithm: &Algorithm, label: &str) -> Result<Option<RsaHash>> {
        if !matches!(algorithm, Algorithm::Rsa { .. }) {
            return Ok(Some(None));
        }
        if self.rsa_hash.is_none() {
            let Some(said) = within(self.deadline, self.handle.best_supported_rsa_hash()).await else { return Err(self.timed_out(None)) };
            let legacy = self.config.algorithms == Algorithms::Legacy;
            let hash = match said {
                Err(_) => return Err(self.ended(None).await),
                Ok(Some(Some(hash))) => Some(Some(hash)),
                // A server that does not say is new enough, unless the user says that it is old.
                Ok(None) if !legacy => Some(Some(HashAlg::Sha512)),
                Ok(Some(None)) if !legacy => None,
                Ok(_) => {
                    self.notes.push("legacy SSH algorithm in use: ssh-rsa signature of the user's key".to_owned());
                    Some(None)
                }
            };
            self.rsa_hash = Some(hash);
        }
        let hash = self.rsa_hash.flatten();
        if hash.is_none() {
            self.tried.push(format!("{label} (the server takes RSA with SHA-1 only; --ssh-algorithms legacy allows that)"));
        }
        Ok(hash)
    }

    // Passwords

    async fn try_password(&mut self) -> Result<Outcome> {
        let Some(password) = self.the_password().await else { return Ok(Outcome::Skipped) };
        self.password = Password::Spent;
        self.in_flight = Some(self.observed.received());
        let answer = within(self.deadline, self.handle.authenticate_password(self.config.user(), password.expose())).await;
        let outcome = self.took(answer, Some("password".to_owned())).await?;
        if matches!(outcome, Outcome::Refused { partial: true }) {
            self.password = Password::Accepted;
        }
        Ok(outcome)
    }

    async fn the_password(&mut self) -> Option<Secret> {
        let password = match &self.config.password {
            Some(password) => Some(password.clone()),
            None => {
                let host = &self.config.endpoint.host;
                let role = if self.config.jump_host { "the jump host " } else { "" };
                self.ask(format!("password of {} at {role}{host}", self.config.user())).await
            }
        };
        if password.is_none() {
            self.password = Password::Spent;
            self.looked.push("no password".to_owned());
        }
        password
    }

    async fn answer_questions(&mut self) -> Result<Outcome> {
        // What the server asks after a password was accepted is something else, which only a person can answer.
        let mut password_left = self.password == Password::Untried;
        self.password = if password_left { Password::Spent } else { Password::Accepted };
        if self.config.password.is_none() && self.config.prompt.is_none() {
            self.looked.push("no password".to_owned());
            return Ok(Outcome::Skipped);
        }
        let label = || Some("keyboard-interactive".to_owned());
        let user = self.config.user().to_owned();
        let mut answer = within(self.deadline, self.handle.authenticate_keyboard_interactive_start(user, None)).await;
        for _ in 0..MAX_ROUNDS {
            let prompts = match answer {
                None => return Err(self.timed_out(label())),
                Some(Err(_)) => return Err(self.ended(label()).await),
                Some(Ok(Answer::Success)) => return Ok(Outcome::Success),
                Some(Ok(Answer::Failure { remaining_methods, partial_success })) => {
                    self.password = Password::Spent;
                    return self.booked(remaining_methods, partial_success, label()).await;
                }
                Some(Ok(Answer::InfoRequest { prompts, .. })) => prompts,
            };
            let mut responses = Vec::new();
            let hidden = prompts.len() == 1 && !prompts[0].echo;
            match &self.config.password {
                Some(password) if hidden && password_left => {
                    password_left = false;
                    self.in_flight = Some(self.observed.received());
                    responses.push(password.expose().to_owned());
                }
                _ => {
                    for prompt in prompts.iter().take(MAX_PROMPTS + 1) {
                        let question = escape_name(clip(prompt.prompt.trim()));
                        let asked = self.ask(format!("{} asks: {question}", self.config.endpoint.host)).await;
                        let Some(given) = asked.filter(|_| prompts.len() <= MAX_PROMPTS) else {
                            // The exchange cannot be left half-way, so this login ends here.
                            self.tried.push(format!("keyboard-interactive (the server asks {question:?}, and nobody answers)"));
                            return Err(self.refused());
                        };
                        responses.push(given.expose().to_owned());
                    }
                }
            }
            answer = within(self.deadline, self.handle.authenticate_keyboard_interactive_respond(responses)).await;
        }
        self.tried.push("keyboard-interactive (the server does not stop asking)".to_owned());
        Err(self.refused())
    }

    /// Asks a person; the time it takes does not count.
    async fn ask(&mut self, what: String) -> Option<Secret> {
        let prompt = self.config.prompt.clone()?;
        let started = Instant::now();
        let answer = tokio::task::spawn_blocking(move || prompt.ask(&escape_name(&what))).await.ok().flatten();
        self.deadline += started.elapsed();
        answer
    }

    // Ends

    fn account(&self, kind: ErrorKind) -> Error {
        let Subject::Server(server) = self.config.server() else { return Error::new(kind, "log in", Subject::Nothing) };
        Error::new(kind, "log in as", Subject::Account(format!("{} at {server}", self.config.user())))
    }

    fn story(&self) -> String {
        let mut text = if self.tried.is_empty() {
            format!("there was nothing to try: {}", self.looked.join(", "))
        } else {
            let also = if self.looked.is_empty() { String::new() } else { format!(" (and found {})", self.looked.join(", ")) };
            format!("tried {}{also}", self.tried.join(", "))
        };
        let wanted: Vec<&str> = self.wanted.iter().map(Into::into).collect();
        text += &match wanted.is_empty() {
            true => "; the server accepts no further method".to_owned(),
            false => format!("; the server still wants {}", wanted.join(" or ")),
        };
        if let Some(banner) = self.observed.banner() {
            text += &format!("; its banner says {:?}", clip(banner.trim()));
        }
        text
    }

    fn refused(&self) -> Error {
        self.account(ErrorKind::DestAuth).because(self.story())
    }

    fn timed_out(&self, label: Option<String>) -> Error {
        let waiting = label.map(|label| format!(" to {label}")).unwrap_or_default();
        // The server spoke after it got the password and neither accepted nor refused: it wants a new one, as servers do
        // when a password has expired. Sending it again could only lock the account.
        if self.in_flight.is_some_and(|before| self.observed.received() > before) {
            let why = format!("the server neither accepted nor refused the password; it may have expired; {}", self.story());
            return self.account(ErrorKind::DestAuth).because(why).on_lost_connection();
        }
        let why = format!("no answer{waiting} within {} s", self.config.connect_timeout.as_secs());
        self.account(ErrorKind::NetworkStalled).because(why).on_lost_connection()
    }

    /// The session ended during the login. Whether that is a refusal shows in what went before.
    async fn ended(&mut self, label: Option<String>) -> Error {
        // The reason is known for certain once the session's task has ended.
        let _ = within(Instant::now() + std::time::Duration::from_secs(1), &mut *self.handle).await;
        let judged = self.rejected > 0 || self.in_flight.is_some();
        self.tried.extend(label.map(|label| format!("{label} (no answer)")));
        let (kind, why) = match self.observed.ended() {
            Some(Ended::Message { code, text }) => {
                use russh::Disconnect as D;
                let kind = match D::try_from(code) {
                    // OpenSSH calls too many failures a protocol error.
                    Ok(D::AuthCancelledByUser | D::NoMoreAuthMethodsAvailable | D::IllegalUserName | D::ProtocolError) => {
                        ErrorKind::DestAuth
                    }
                    Ok(D::HostNotAllowedToConnect | D::ServiceNotAvailable | D::TooManyConnections) => ErrorKind::DestUnreachable,
                    _ if judged => ErrorKind::DestAuth,
                    _ => ErrorKind::NetworkReset,
                };
                (kind, format!("the server ended the session: {:?}", clip(&text)))
            }
            Some(Ended::Closed) if judged => (ErrorKind::DestAuth, "the server closed the connection".to_owned()),
            Some(Ended::Closed) | None => (ErrorKind::NetworkReset, "the server closed the connection".to_owned()),
            Some(Ended::Failed(why)) => (ErrorKind::NetworkReset, why),
        };
        self.account(kind).because(format!("{why}; {}", self.story())).on_lost_connection()
    }
}

/// A certificate for a key that the agent holds.
fn certified(label: &str, certificate: Certificate) -> Candidate {
    let identity = AgentIdentity::Certificate { certificate, comment: String::new() };
    Candidate::Agent { label: format!("{label} with its certificate"), identity: Box::new(identity) }
}

enum LoginError {
    Signer(String),
    Session,
}

impl From<russh::Error> for LoginError {
    fn from(_: russh::Error) -> Self {
        Self::Session
    }
}

impl From<russh::AgentAuthError> for LoginError {
    fn from(error: russh::AgentAuthError) -> Self {
        match error {
            russh::AgentAuthError::Send(_) => Self::Session,
            russh::AgentAuthError::Key(error) => Self::Signer(error.to_string()),
        }
    }
}

async fn within<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at(deadline, future).await.ok()
}

/// As much of a stranger's text as fits a message.
fn clip(text: &str) -> &str {
    match text.char_indices().nth(200) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
