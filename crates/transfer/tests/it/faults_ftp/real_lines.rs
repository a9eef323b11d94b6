//! Case D1 on real servers: the four programs, plain and over TLS, whose lines are cut in all the ways in turn.

use testkit::ftp::{FtpProgram, FtpSecurity, FtpServerOptions};
use testkit::proxy::{self, Counted, Direction, How, Scope};

use super::{Harbour, each, resuming, slow};

const SIZE: usize = 3_000_000;

type Place = (Scope, Direction, How, u64);

/// Half of the file is 50, all of it 100 and the last byte 99; on control the share of what an undisturbed run has.
const PLACES: [Place; 10] = [
    (Scope::Data, Direction::ToServer, How::HalfClose, 50),
    (Scope::Data, Direction::ToServer, How::Fin, 99),
    (Scope::Data, Direction::ToServer, How::Rst, 100),
    (Scope::Data, Direction::ToServer, How::Rst, 50),
    (Scope::Data, Direction::ToClient, How::Rst, 50),
    (Scope::Data, Direction::ToClient, How::Fin, 99),
    (Scope::Data, Direction::ToClient, How::HalfClose, 100),
    (Scope::Control, Direction::ToServer, How::Fin, 50),
    (Scope::Control, Direction::ToClient, How::Rst, 50),
    (Scope::Control, Direction::ToClient, How::HalfClose, 90),
];

// D1. Mutation: `Line::finish` takes the end of the data without the server's word for a success, or `reopen_stream`
// returns `None` (the wire), or a download may end without the end of TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_servers_survive_a_cut_of_either_connection() {
    let securities = [FtpSecurity::Clear, FtpSecurity::Explicit { required: true }];
    let mut cases = Vec::new();
    for (row, program) in FtpProgram::ALL.into_iter().enumerate() {
        for (column, place) in PLACES.into_iter().enumerate() {
            for (which, security) in securities.into_iter().enumerate() {
                // Half of them, in turn; all where time does not matter.
                if slow() || (row + column) % 2 == which {
                    cases.push((program, security, place));
                }
            }
        }
    }
    each(cases, 5, async |(program, security, (scope, direction, how, share))| {
        let which = format!("{} {security:?} {scope:?} {direction:?} {how:?} at {share} %", program.name());
        let options = FtpServerOptions { security, ..resuming(program) };
        let Some(harbour) = Harbour::new(program, options, &[("large", SIZE)]).await else { return };
        let all = if scope == Scope::Data { SIZE as u64 } else { 1400 };
        let at = match share {
            99 => all - 1,
            _ => all * share / 100,
        };
        let rule = harbour.proxy.on(scope).rule(direction, Counted::OverAll, at, proxy::Action::Cut(how));
        if let Err(error) = harbour.run().await {
            // The very first login is no file's: without it a run ends, and the next one begins.
            assert!(error.kind.is_retryable(), "{which}: {}", transfer::error::chain(&error));
            harbour.run().await.unwrap();
        }
        rule.remove();
        harbour.assert_delivered(&which);
        let sent = harbour.data(Direction::ToServer);
        assert!(sent < SIZE as u64 * 2, "{which}: {sent} bytes were sent");
    })
    .await;
}
