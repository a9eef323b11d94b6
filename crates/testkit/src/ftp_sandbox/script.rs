//! Answers byte by byte: steps for one connection, written by a test, for what no server with an intention would send.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;

/// One step on a control connection.
#[derive(Debug, Clone)]
pub enum Step {
    Send(Bytes),
    /// Every byte in a packet (and TLS record) of its own.
    SendByByte(Bytes),
    /// The same bytes again and again, without keeping them all.
    Repeat {
        bytes: Bytes,
        times: u64,
    },
    /// The next command must begin like this; otherwise the connection is closed and `Recorder` has
    /// `Event::Unexpected`.
    Expect(Cow<'static, str>),
    /// The next command, whatever it is.
    ReadLine,
    /// A TLS handshake.
    Secure,
    /// A data connection: a listener whose port the answer to EPSV (or PASV) tells, and what happens on it.
    Listen {
        pasv: bool,
        steps: Vec<DataStep>,
    },
    Pause(Duration),
    /// Reads and answers nothing until the client goes.
    Silence,
    /// The end of the connection, with FIN.
    Close,
    /// The end of the connection, with RST.
    Reset,
}

/// One step on a data connection. After the last it is ended in order, with close_notify where it is protected.
#[derive(Debug, Clone)]
pub enum DataStep {
    Send(Bytes),
    Repeat {
        bytes: Bytes,
        times: u64,
    },
    /// Reads so many bytes, or until the client ends the stream.
    Read(u64),
    Pause(Duration),
    /// Neither reads nor writes, for ever.
    Silence,
    /// FIN without close_notify.
    Close,
    Reset,
}

/// Steps for one connection, from its first byte. When they are over the connection is closed, unless the script ends
/// with `serve`, from where on the server is what its behaviour says.
#[derive(Debug, Clone, Default)]
pub struct Script {
    pub(crate) steps: Vec<Step>,
    pub(crate) serves: bool,
}

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub fn send(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Send(Bytes::copy_from_slice(bytes.as_ref())))
    }

    pub fn send_by_byte(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::SendByByte(Bytes::copy_from_slice(bytes.as_ref())))
    }

    pub fn repeat(self, bytes: impl AsRef<[u8]>, times: u64) -> Self {
        self.step(Step::Repeat { bytes: Bytes::copy_from_slice(bytes.as_ref()), times })
    }

    pub fn expect(self, prefix: impl Into<Cow<'static, str>>) -> Self {
        self.step(Step::Expect(prefix.into()))
    }

    /// Waits for the next command and sends these bytes.
    pub fn answer(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::ReadLine).send(bytes)
    }

    pub fn secure(self) -> Self {
        self.step(Step::Secure)
    }

    pub fn listen(self, pasv: bool, steps: Vec<DataStep>) -> Self {
        self.step(Step::Listen { pasv, steps })
    }

    pub fn pause(self, time: Duration) -> Self {
        self.step(Step::Pause(time))
    }

    pub fn silence(self) -> Self {
        self.step(Step::Silence)
    }

    pub fn close(self) -> Self {
        self.step(Step::Close)
    }

    pub fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    pub fn serve(mut self) -> Self {
        self.serves = true;
        self
    }
}

/// `bytes` as often as `times` says, in pieces of about 64 KiB.
pub(crate) fn pieces(bytes: &Bytes, times: u64) -> impl Iterator<Item = Bytes> {
    let most = (64 * 1024 / bytes.len().max(1)).max(1) as u64;
    let large = Bytes::from(bytes.repeat(most.min(times) as usize));
    let (whole, rest) = (times / most, (times % most) as usize * bytes.len());
    let rest = large.slice(..rest.min(large.len()));
    (0..whole).map(move |_| large.clone()).chain(std::iter::once(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_add_up_to_what_was_asked_for() {
        for (length, times) in [(1, 0), (1, 1), (7, 3), (10, 100_000), (70_000, 3), (64 * 1024, 2)] {
            let total: usize = pieces(&Bytes::from(vec![1; length]), times).map(|piece| piece.len()).sum();
            assert_eq!(total as u64, length as u64 * times, "{length} x {times}");
        }
    }
}
