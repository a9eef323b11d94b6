//! The SSH side: logins, their limits, and the channels on which SFTP runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use russh::keys::PublicKey;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, Response, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, MethodKind, MethodSet};

use super::Shared;
use super::behaviour::{Authentication, LoginRefusal};
use super::recorder::lock;

pub(super) struct Connection {
    shared: Arc<Shared>,
    number: u64,
    generation: u64,
    channels: HashMap<ChannelId, Channel<Msg>>,
    opened_channels: usize,
    key_proved: bool,
    logged_in: bool,
    refuse_channels: bool,
}

impl Connection {
    pub fn new(shared: Arc<Shared>, number: u64, generation: u64) -> Self {
        shared.recorder.connections.up();
        Self {
            shared,
            number,
            generation,
            channels: HashMap::new(),
            opened_channels: 0,
            key_proved: false,
            logged_in: false,
            refuse_channels: false,
        }
    }

    fn rule(&self) -> Authentication {
        self.shared.behaviour().authentication
    }

    fn knows(&self, user: &str, key: &PublicKey) -> bool {
        user == self.shared.user && lock(&self.shared.accepted_keys).iter().any(|accepted| accepted.key_data() == key.key_data())
    }

    /// Lets the rightly authenticated in, as far as the login limit allows.
    fn admit(&mut self) -> Auth {
        let limit = self.shared.behaviour().logins;
        let recorder = &self.shared.recorder;
        self.logged_in = recorder.logins.up_to(limit.map_or(usize::MAX, |limit| limit.count));
        if !self.logged_in {
            recorder.refused_logins.fetch_add(1, Ordering::SeqCst);
            if limit.is_some_and(|limit| limit.refusal == LoginRefusal::Authentication) {
                return Auth::reject();
            }
            self.refuse_channels = true;
        }
        Auth::Accept
    }

    fn next(&self, method: MethodKind) -> Auth {
        Auth::Reject { proceed_with_methods: Some(MethodSet::from(&[method][..])), partial_success: true }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.recorder.connections.down();
        if self.logged_in {
            self.shared.recorder.logins.down();
        }
        lock(&self.shared.sockets).remove(&self.number);
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_none(&mut self, _user: &str) -> Result<Auth, Self::Error> {
        self.shared.recorder.attempts.none.fetch_add(1, Ordering::SeqCst);
        let first = match self.rule() {
            Authentication::KeyOrPassword => MethodSet::from(&[MethodKind::PublicKey, MethodKind::Password][..]),
            Authentication::Key | Authentication::KeyThenPassword | Authentication::KeyThenQuestion | Authentication::Nobody => {
                MethodSet::from(&[MethodKind::PublicKey][..])
            }
            Authentication::Password => MethodSet::from(&[MethodKind::Password][..]),
            Authentication::Question => MethodSet::from(&[MethodKind::KeyboardInteractive][..]),
        };
        Ok(Auth::Reject { proceed_with_methods: Some(first), partial_success: false })
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: russh::server::PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        Ok(if self.knows(user, offer.public_key) { Auth::Accept } else { Auth::reject() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.shared.recorder.attempts.key.fetch_add(1, Ordering::SeqCst);
        if !self.knows(user, key.public_key) {
            return Ok(Auth::reject());
        }
        Ok(match self.rule() {
            Authentication::KeyOrPassword | Authentication::Key => self.admit(),
            Authentication::KeyThenPassword => {
                self.key_proved = true;
                self.next(MethodKind::Password)
            }
            Authentication::KeyThenQuestion => {
                self.key_proved = true;
                self.next(MethodKind::KeyboardInteractive)
            }
            Authentication::Password | Authentication::Question | Authentication::Nobody => Auth::reject(),
        })
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        self.shared.recorder.attempts.password.fetch_add(1, Ordering::SeqCst);
        let right = user == self.shared.user && password == self.shared.password;
        let allowed = match self.rule() {
            Authentication::KeyOrPassword | Authentication::Password => true,
            Authentication::KeyThenPassword => self.key_proved,
            _ => false,
        };
        Ok(if right && allowed { self.admit() } else { Auth::reject() })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        let allowed = match self.rule() {
            Authentication::Question => true,
            Authentication::KeyThenQuestion => self.key_proved,
            _ => false,
        };
        if !allowed {
            return Ok(Auth::reject());
        }
        let Some(mut answers) = response else {
            return Ok(Auth::Partial { name: "".into(), instructions: "".into(), prompts: vec![("Password: ".into(), false)].into() });
        };
        self.shared.recorder.attempts.question.fetch_add(1, Ordering::SeqCst);
        let right = user == self.shared.user && answers.next().is_some_and(|answer| answer == self.shared.password.as_bytes());
        Ok(if right { self.admit() } else { Auth::reject() })
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        let limit = self.shared.behaviour().logins;
        if self.refuse_channels && limit.is_some_and(|limit| limit.refusal == LoginRefusal::Disconnect) {
            session.disconnect(Disconnect::TooManyConnections, "Too many connections", "en")?;
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let full = self.shared.behaviour().max_channels.is_some_and(|most| self.opened_channels >= most);
        if self.refuse_channels || full {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        self.opened_channels += 1;
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.channels.remove(&channel);
        self.opened_channels = self.opened_channels.saturating_sub(1);
        Ok(())
    }

    async fn subsystem_request(&mut self, channel: ChannelId, name: &str, session: &mut Session) -> Result<(), Self::Error> {
        match self.channels.remove(&channel) {
            Some(opened) if name == "sftp" => {
                session.channel_success(channel)?;
                self.shared.recorder.channels.up();
                tokio::spawn(super::session::serve(self.shared.clone(), self.number, self.generation, opened));
            }
            _ => session.channel_failure(channel)?,
        }
        Ok(())
    }

    async fn exec_request(&mut self, channel: ChannelId, _command: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }
}
