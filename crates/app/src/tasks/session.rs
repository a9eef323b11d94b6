//! AuthenticateSSO and what consumes its session: ten seconds in which the next state may begin, and a grant on which
//! everything later rests. The session's text is made anew by whoever needs it and is stored nowhere; its hash is.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use jiff::Timestamp;
use model::ErrorClass;
use serde_json::json;
use store::{Batch, GrantRecord, Mutation, RequestRecord, SessionRecord};

use super::Tasks;
use super::step::{Done, Step, Stopped};
use crate::error::Error;

/// Sessions of one run that nobody consumed in time, at most.
const ATTEMPTS: u32 = 3;

/// What sessions are made with. Never leaves the machine and prints as nothing.
pub struct SessionKey(hmac::Key);

impl SessionKey {
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The hash under which the session of this attempt is stored.
    fn hash(&self, step: &Step, attempt: u32) -> String {
        let token = hmac::sign(&self.0, format!("session\n{}\n{attempt}", step.execution).as_bytes());
        data_encoding::HEXLOWER.encode(digest::digest(&digest::SHA256, token.as_ref()).as_ref())
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey")
    }
}

/// When sessions of this process were minted, by a clock that nobody sets.
#[derive(Debug, Default)]
pub struct Minted(Mutex<HashMap<String, Duration>>);

impl Minted {
    fn note(&self, hash: &str, at: Duration) {
        self.0.lock().expect("no panic while holding the lock").insert(hash.to_owned(), at);
    }

    fn age(&self, hash: &str, now: Duration) -> Option<Duration> {
        self.0.lock().expect("no panic while holding the lock").get(hash).map(|at| now.saturating_sub(*at))
    }

    fn forget(&self, hash: &str) {
        self.0.lock().expect("no panic while holding the lock").remove(hash);
    }
}

/// Why a session is of no use any more.
enum Refused {
    TooLate,
    Other(&'static str),
}

impl Tasks {
    /// Mints the session, or passes on the grant of an earlier run.
    pub(super) async fn authenticate(&self, step: &Step, request: &RequestRecord) -> Result<Done, Stopped> {
        self.approved(request)?;
        if self.grant(request).await?.is_some() {
            return Ok(Done::with(json!({"attempt": 1})));
        }
        let now = self.clock.wall();
        let expires_at = now.checked_add(self.settings.session).map_err(|e| Error::new(ErrorClass::Internal, e.to_string()))?;
        for attempt in 1..=ATTEMPTS {
            let hash = self.key.hash(step, attempt);
            if let Some(session) = self.store.session(&hash, now).await?
                && self.usable(&session, request, step, now).is_ok()
            {
                // This step has run before.
                return Ok(Done::with(json!({"attempt": attempt})));
            }
            let session = SessionRecord {
                token_hash: hash.clone(),
                transfer: step.transfer.clone(),
                run: step.run,
                user: request.user.clone(),
                spec_hash: request.spec_hash.clone(),
                role: request.source.clone(),
                created_at: now,
                expires_at,
                consumed_by: None,
            };
            let elapsed = self.clock.steady();
            match self.store.commit(Mutation::CreateSession(Box::new(session))).await {
                Ok(_) => {
                    self.minted.note(&hash, elapsed);
                    return Ok(Done::with(json!({"attempt": attempt})));
                }
                // That one was minted before, and is over.
                Err(error) if error.conflict().is_some() => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::new(ErrorClass::SessionExpired, format!("{ATTEMPTS} sessions were not used in time")).into())
    }

    fn approved(&self, request: &RequestRecord) -> Result<(), Error> {
        let refused = |why: &str| Err(Error::new(ErrorClass::PolicyDenied, why.to_owned()));
        match (request.approval.policy == "second-person", &request.approval.approved_by) {
            (false, _) => Ok(()),
            (true, None) => refused("nobody has approved the transfer"),
            (true, Some(by)) if *by == request.user => refused("the transfer must be approved by somebody else than who asked for it"),
            (true, Some(_)) => Ok(()),
        }
    }

    /// The grant of this transfer, if it is for what was asked for.
    async fn grant(&self, request: &RequestRecord) -> Result<Option<GrantRecord>, Error> {
        let grant = self.store.grant(&request.transfer).await?;
        Ok(grant.filter(|grant| grant.spec_hash == request.spec_hash && grant.user == request.user))
    }

    /// Consumes the session and writes the grant, at once: what comes after may take longer than the session lives.
    pub(super) async fn consume(&self, step: &Step, request: &RequestRecord) -> Result<(), Stopped> {
        if self.grant(request).await?.is_some() {
            return Ok(());
        }
        let now = self.clock.wall();
        let mut live = None;
        for attempt in (1..=ATTEMPTS).rev() {
            live = self.store.session(&self.key.hash(step, attempt), now).await?;
            if live.is_some() {
                break;
            }
        }
        let Some(session) = live else { return Err(expired("the session was not used in time")) };
        match self.usable(&session, request, step, now) {
            Ok(()) => {}
            Err(Refused::TooLate) => return Err(expired("the session was not used in time")),
            Err(Refused::Other(why)) => return Err(Error::new(ErrorClass::SessionExpired, why).into()),
        }
        let consume = Mutation::ConsumeSession {
            token_hash: session.token_hash.clone(),
            execution: step.execution.clone(),
            spec_hash: request.spec_hash.clone(),
            now,
        };
        let grant = GrantRecord {
            transfer: step.transfer.clone(),
            user: request.user.clone(),
            spec_hash: request.spec_hash.clone(),
            role: session.role.clone(),
            execution: step.execution.clone(),
            at: now,
        };
        match self.store.commit(Batch::new().push(consume).push(Mutation::PutGrant(Box::new(grant)))).await {
            Ok(_) => Ok(()),
            Err(error) if error.conflict().is_some() => Err(expired("the session is not valid any more")),
            Err(error) => Err(error.into()),
        }
    }

    fn usable(&self, session: &SessionRecord, request: &RequestRecord, step: &Step, now: Timestamp) -> Result<(), Refused> {
        if session.spec_hash != request.spec_hash || session.transfer != step.transfer || session.user != request.user {
            return Err(Refused::Other("the session is for something else than this transfer"));
        }
        match &session.consumed_by {
            Some(execution) if *execution == step.execution => return Ok(()),
            Some(_) => return Err(Refused::Other("the session was used by somebody else")),
            None => {}
        }
        let slow = self.minted.age(&session.token_hash, self.clock.steady()).is_some_and(|age| age >= self.settings.session.unsigned_abs());
        // By the time of day and by a clock that nobody sets: a wall clock that was set back lengthens nothing.
        if slow || !session.is_live(now) { Err(Refused::TooLate) } else { Ok(()) }
    }

    /// The sessions of this run, to be deleted.
    pub(super) fn sessions(&self, step: &Step) -> Vec<Mutation> {
        let mut found = Vec::new();
        for attempt in 1..=ATTEMPTS {
            let token_hash = self.key.hash(step, attempt);
            self.minted.forget(&token_hash);
            found.push(Mutation::DeleteSession { token_hash });
        }
        found
    }
}

fn expired(why: &str) -> Stopped {
    Stopped::SessionExpired(Error::new(ErrorClass::SessionExpired, why))
}
