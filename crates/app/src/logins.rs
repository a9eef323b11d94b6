//! The logins of one destination, shared by every process through the store: a refused login parks it until a person
//! acts, five failures in a row open the breaker for a minute.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use model::ErrorClass;
use store::{Mutation, Parked, Store};
use transfer::port::Logins;
use transfer::{ServerIdentity, Subject};

use crate::error::to_engine;

const BREAKER_THRESHOLD: u32 = 5;
const BREAKER_OPEN: SignedDuration = SignedDuration::from_secs(60);

#[derive(Debug)]
pub struct StoreLogins {
    store: Store,
    destination: String,
    /// Changes when the credential changes; says nothing about it.
    credential: String,
    retry_auth: bool,
}

impl StoreLogins {
    pub fn new(store: Store, destination: String, credential: String, retry_auth: bool) -> Self {
        Self { store, destination, credential, retry_auth }
    }

    async fn record(&self, mutation: Mutation) {
        if let Err(error) = self.store.commit(mutation).await {
            tracing::warn!(destination = %self.destination, error = %transfer::error::chain(&error), "login state not recorded");
        }
    }
}

#[async_trait]
impl Logins for StoreLogins {
    async fn before_connect(&self) -> transfer::Result<()> {
        let Some(record) = self.store.destination(&self.destination).await.map_err(|e| to_engine("read the destination", e))? else {
            return Ok(());
        };
        let server = || Subject::Server(self.destination.clone());
        if let Some(parked) = &record.parked
            && parked.credential == self.credential
            && !self.retry_auth
        {
            return Err(transfer::Error::new(ErrorClass::DestAuth, "log in to", server()).because(format!(
                "parked since {}: {}; change the credential or add --retry-auth, so that the partner's account is not locked by repeated tries",
                parked.at.strftime("%Y-%m-%d %H:%M UTC"),
                parked.reason
            )));
        }
        let now = Timestamp::now();
        let open_until = now.checked_add(BREAKER_OPEN).unwrap_or(now);
        match record.breaker_open_until {
            // One that is to be open longer than that was opened before the clock was set back.
            Some(until) if until > now && until <= open_until => {
                Err(transfer::Error::new(ErrorClass::DestUnreachable, "connect to", server()).because(format!(
                    "{} connections in a row failed; the next try is made after {}",
                    record.breaker_failures,
                    until.strftime("%H:%M:%S UTC")
                )))
            }
            // Half open: one of all processes tries, the others wait for what it finds.
            Some(_) => {
                let probe = Mutation::BreakerProbe { destination: self.destination.clone(), now, open_until };
                match self.store.commit(probe).await {
                    Ok(_) => Ok(()),
                    Err(error) if error.conflict().is_some() => {
                        Err(transfer::Error::new(ErrorClass::DestUnreachable, "connect to", server())
                            .because("another process is trying it just now"))
                    }
                    Err(error) => Err(to_engine("read the destination", error)),
                }
            }
            None => Ok(()),
        }
    }

    async fn after_connect(&self, outcome: Result<&ServerIdentity, &transfer::Error>) {
        let destination = self.destination.clone();
        match outcome {
            Ok(_) => {
                let known = self.store.destination(&destination).await.ok().flatten();
                if known.as_ref().is_some_and(|d| d.parked.is_some()) {
                    self.record(Mutation::Unpark { destination: destination.clone() }).await;
                }
                if known.is_some_and(|d| d.breaker_failures > 0) {
                    self.record(Mutation::BreakerSuccess { destination }).await;
                }
            }
            Err(error) if error.kind == ErrorClass::DestAuth => {
                let parked = Parked { credential: self.credential.clone(), reason: transfer::error::chain(error), at: Timestamp::now() };
                self.record(Mutation::Park { destination, parked }).await;
            }
            Err(error) if matches!(error.kind, ErrorClass::DestUnreachable | ErrorClass::NetworkReset | ErrorClass::NetworkStalled) => {
                let now = Timestamp::now();
                let open_until = now.checked_add(BREAKER_OPEN).unwrap_or(now);
                self.record(Mutation::BreakerFailure { destination, threshold: BREAKER_THRESHOLD, open_until }).await;
            }
            Err(_) => {}
        }
    }
}
