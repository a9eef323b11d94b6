//! Requests and replies of one session against a peer made by hand.

use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;

pub(in crate::sftp) const STATUS: u8 = 101;
pub(in crate::sftp) const HANDLE: u8 = 102;
pub(in crate::sftp) const DATA: u8 = 103;
pub(in crate::sftp) const NAME: u8 = 104;

struct MemoryOutbound(UnboundedSender<Bytes>);
struct MemoryInbound(UnboundedReceiver<Bytes>);

impl Outbound for MemoryOutbound {
    async fn send(&mut self, data: Bytes) -> Result<(), BoxError> {
        Ok(self.0.send(data)?)
    }

    async fn finish(&mut self) {}
}

impl Inbound for MemoryInbound {
    async fn receive(&mut self) -> Event {
        match self.0.recv().await {
            Some(data) => Event::Data(data),
            None => Event::Ended,
        }
    }

    async fn reason(&mut self) -> Lost {
        Lost::reset("the server closed the connection").because("goodbye and thanks")
    }

    async fn leave(&mut self) {}
}

/// The other end of a session: a server that does what a test tells it to.
pub(in crate::sftp) struct Peer {
    requests: UnboundedReceiver<Bytes>,
    replies: UnboundedSender<Bytes>,
    assembler: Assembler,
}

pub(in crate::sftp) struct Asked {
    pub kind: u8,
    pub id: u32,
    pub body: Bytes,
}

impl Peer {
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(packet) = self.assembler.next().unwrap() {
                return Some(packet);
            }
            self.assembler.push(self.requests.recv().await?);
        }
    }

    pub async fn asked(&mut self) -> Option<Asked> {
        let mut packet = self.next().await?;
        Some(Asked { kind: packet.get_u8(), id: packet.get_u32(), body: packet })
    }

    pub fn send_raw(&self, bytes: impl Into<Bytes>) {
        let _ = self.replies.send(bytes.into());
    }

    pub fn send(&self, kind: u8, id: u32, body: &[u8]) {
        let mut out = BytesMut::new();
        out.put_u32(5 + body.len() as u32);
        out.put_u8(kind);
        out.put_u32(id);
        out.extend_from_slice(body);
        self.send_raw(out);
    }

    pub fn status(&self, id: u32, code: u32) {
        self.send(STATUS, id, &[&code.to_be_bytes()[..], &string(b"as scripted"), &string(b"")].concat());
    }
}

pub(in crate::sftp) fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

/// A session with a peer that has already said VERSION and these extensions.
pub(in crate::sftp) async fn session_with(
    stall_timeout: Duration,
    extensions: &[(&str, &str)],
    limits: Option<[u64; 4]>,
) -> (Session, Peer) {
    let (to_server, requests) = unbounded_channel();
    let (replies, from_server) = unbounded_channel();
    let mut peer = Peer { requests, replies, assembler: Assembler::default() };
    let mut hello = vec![2, 0, 0, 0, 3];
    for (name, data) in extensions {
        hello.extend(string(name.as_bytes()));
        hello.extend(string(data.as_bytes()));
    }
    peer.send_raw(string(&hello));
    let start = tokio::spawn(Session::start(MemoryOutbound(to_server), MemoryInbound(from_server), stall_timeout));
    assert_eq!(peer.next().await.unwrap()[..], [1, 0, 0, 0, 3]);
    if let Some(limits) = limits {
        let asked = peer.asked().await.unwrap();
        let body: Vec<u8> = limits.iter().flat_map(|l| l.to_be_bytes()).collect();
        peer.send(201, asked.id, &body);
    }
    (start.await.unwrap().unwrap(), peer)
}

async fn session() -> (Arc<Session>, Peer) {
    let (session, peer) = session_with(Duration::from_secs(30), &[], None).await;
    (Arc::new(session), peer)
}

fn ask(session: &Arc<Session>) -> tokio::task::JoinHandle<Result<(), Failure>> {
    let session = Arc::clone(session);
    tokio::spawn(async move { session.ok(Request::Remove { path: "/x" }).await })
}

async fn lost(call: tokio::task::JoinHandle<Result<(), Failure>>) -> Lost {
    match call.await.unwrap() {
        Err(Failure::Lost(lost)) => lost,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn replies_find_their_requests_in_any_order() {
    let (session, mut peer) = session().await;
    let (first, second) = (ask(&session), ask(&session));
    let (a, b) = (peer.asked().await.unwrap(), peer.asked().await.unwrap());
    peer.status(b.id, 0);
    peer.status(a.id, 0);
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}

#[tokio::test]
async fn request_ids_wrap_and_step_over_those_still_open() {
    let (session, mut peer) = session().await;
    let slow = ask(&session);
    let open = peer.asked().await.unwrap();
    session.shared.table().last_id = open.id.wrapping_sub(1);
    let next = ask(&session);
    let asked = peer.asked().await.unwrap();
    assert_eq!(asked.id, open.id.wrapping_add(1));
    session.shared.table().last_id = u32::MAX;
    let last = ask(&session);
    let wrapped = peer.asked().await.unwrap();
    assert_eq!(wrapped.id, 0);
    for (call, id) in [(slow, open.id), (next, asked.id), (last, wrapped.id)] {
        peer.status(id, 0);
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_answer_to_a_request_never_made_ends_the_session_for_everyone() {
    let (session, mut peer) = session().await;
    let (first, second) = (ask(&session), ask(&session));
    peer.asked().await.unwrap();
    peer.status(4_000_000, 0);
    for call in [first, second, ask(&session)] {
        assert_eq!(lost(call).await.kind, ErrorKind::DestProtocol);
    }
    assert!(session.is_over());
}

#[tokio::test]
async fn a_packet_of_four_gigabytes_ends_the_session_without_being_awaited() {
    let (session, mut peer) = session().await;
    let call = ask(&session);
    peer.asked().await.unwrap();
    peer.send_raw(&b"\xff\xff\xff\xff\x65"[..]);
    assert_eq!(lost(call).await.kind, ErrorKind::DestProtocol);
}

#[tokio::test]
async fn an_answer_of_the_wrong_kind_is_never_taken_for_success() {
    let (session, mut peer) = session().await;
    let call = ask(&session);
    let asked = peer.asked().await.unwrap();
    peer.send(DATA, asked.id, &string(b"x"));
    assert_eq!(lost(call).await.kind, ErrorKind::DestProtocol);
    assert!(session.is_over());
}

#[tokio::test]
async fn silence_while_requests_wait_is_a_stall_for_all_of_them() {
    let (session, mut peer) = session_with(Duration::from_millis(100), &[], None).await;
    let session = Arc::new(session);
    // An idle session never stalls.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (first, second) = (ask(&session), ask(&session));
    peer.asked().await.unwrap();
    let lost_one = lost(first).await;
    assert_eq!(lost_one.kind, ErrorKind::NetworkStalled);
    assert!(lost_one.into_error("write", crate::Subject::Nothing).is_connection_lost());
    assert_eq!(lost(second).await.kind, ErrorKind::NetworkStalled);
}

#[tokio::test]
async fn a_link_that_ends_resets_every_waiter_and_keeps_the_servers_words() {
    let (session, mut peer) = session().await;
    let (first, second) = (ask(&session), ask(&session));
    peer.asked().await.unwrap();
    drop(peer);
    for call in [first, second] {
        let error = lost(call).await.into_error("write", crate::Subject::Nothing);
        assert_eq!(error.kind, ErrorKind::NetworkReset);
        assert!(error.is_connection_lost());
        assert!(crate::error::chain(&error).contains("goodbye and thanks"), "{}", crate::error::chain(&error));
    }
}

#[tokio::test]
async fn a_handle_that_nobody_waits_for_any_more_is_closed() {
    let (session, mut peer) = session().await;
    let call = {
        let session = Arc::clone(&session);
        tokio::spawn(async move { session.handle(Request::OpenDirectory { path: "/x" }).await })
    };
    let asked = peer.asked().await.unwrap();
    call.abort();
    let _ = call.await;
    peer.send(HANDLE, asked.id, &string(b"left over"));
    let close = peer.asked().await.unwrap();
    assert_eq!((close.kind, &close.body[..]), (4, &string(b"left over")[..]));
}

#[tokio::test]
async fn another_version_and_a_chatty_login_script_are_refused() {
    for (hello, words) in
        [(string(&[2, 0, 0, 0, 6]), "version 6"), (b"Hello, bob!\r\n".to_vec(), "Hello, bob!"), (string(&[101, 0, 0, 0, 0]), "not VERSION")]
    {
        let (to_server, _requests) = unbounded_channel();
        let (replies, from_server) = unbounded_channel();
        replies.send(Bytes::from(hello)).unwrap();
        let lost = Session::start(MemoryOutbound(to_server), MemoryInbound(from_server), Duration::from_secs(5)).await.unwrap_err();
        let error = lost.into_error("start SFTP on", crate::Subject::Nothing);
        assert_eq!(error.kind, ErrorKind::DestProtocol);
        assert!(crate::error::chain(&error).contains(words), "{}", crate::error::chain(&error));
    }
}

#[tokio::test]
async fn limits_are_used_as_told_and_safe_where_untold_or_absurd() {
    let offered = [("limits@openssh.com", "1")];
    let (unknown, _peer) = session_with(Duration::from_secs(5), &[], None).await;
    assert_eq!((unknown.max_write, unknown.max_read, unknown.max_handles), (32_704, 32_768, 64));
    let (openssh, _peer) = session_with(Duration::from_secs(5), &offered, Some([262_144, 261_120, 261_120, 1019])).await;
    assert_eq!((openssh.max_write, openssh.max_read, openssh.max_handles), (131_072, 131_072, 256));
    let (untold, _peer) = session_with(Duration::from_secs(5), &offered, Some([0; 4])).await;
    assert_eq!((untold.max_write, untold.max_handles), (32_704, 64));
    let (small, _peer) = session_with(Duration::from_secs(5), &offered, Some([34_000, 1, u64::MAX, 2])).await;
    assert_eq!((small.max_write, small.max_read, small.max_handles), (32_976, 1024, 2));
    assert_eq!(small.shared.handles.available_permits(), 2);
}
