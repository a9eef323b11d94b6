//! Streams on real servers: cut, continued, ended, and the line that they occupy.

use bytes::Bytes;
use testkit::ftp::{FtpProgram, FtpSecurity, FtpServer, FtpServerOptions};
use transfer::{Connection, ErrorKind, OpenMode};

use super::{options, path, pattern, put, session, start};

async fn each(work: impl AsyncFn(FtpServer)) {
    for program in FtpProgram::ALL {
        for security in [FtpSecurity::Clear, FtpSecurity::Explicit { required: true }] {
            let permissive = program == FtpProgram::Proftpd;
            if let Some(server) = start(program, FtpServerOptions { security, permissive, ..FtpServerOptions::default() }).await {
                println!("{} {security:?}", program.name());
                work(server).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_where_it_was_cut() {
    each(async |server| {
        let (path, bytes) = (path(&server, "a"), pattern(700_000));
        let connection = session(&server).await.unwrap();
        put(&connection, &path, &bytes[..400_000]).await.unwrap();
        let writer = connection.open(&path, options(OpenMode::Continue(300_000))).await.unwrap();
        writer.write_at(300_000, Bytes::copy_from_slice(&bytes[300_000..])).await.unwrap();
        writer.finish().await.unwrap();
        assert_eq!(writer.size().await.unwrap(), 700_000);
        writer.close().await.unwrap();
        assert!(std::fs::read(server.root().join("a")).unwrap() == bytes);
        let beyond = connection.open(&path, options(OpenMode::Continue(700_001))).await.unwrap_err();
        assert_eq!(beyond.kind, ErrorKind::DestProtocol);
        let nothing = super::path(&server, "no");
        let missing = connection.open(&nothing, options(OpenMode::Continue(1))).await.unwrap_err();
        assert_eq!(missing.kind, ErrorKind::DestDirMissing);
        // The offset of a refused stream is not that of the next file.
        put(&connection, &super::path(&server, "b"), b"from the beginning").await.unwrap();
        assert_eq!(std::fs::read(server.root().join("b")).unwrap(), b"from the beginning");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_stream_ends_and_the_connection_goes_on_or_says_that_it_is_lost() {
    each(async |server| {
        let (path, bytes) = (path(&server, "a"), pattern(400_000));
        let connection = session(&server).await.unwrap();
        let writer = connection.open(&path, options(OpenMode::CreateNew)).await.unwrap();
        writer.write_at(0, Bytes::from(bytes.clone())).await.unwrap();
        let busy = connection.ping().await.unwrap_err();
        assert!(busy.kind == ErrorKind::DestProtocol && !busy.is_connection_lost(), "{busy:?}");
        drop(writer);
        match connection.stat(&path).await {
            Ok(_) => {
                put(&connection, &super::path(&server, "b"), b"next").await.unwrap();
                assert_eq!(std::fs::read(server.root().join("b")).unwrap(), b"next");
            }
            Err(error) => assert!(error.is_connection_lost(), "{}", transfer::error::chain(&error)),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_and_an_open_polled_together_both_answer() {
    each(async |server| {
        let connection = session(&server).await.unwrap();
        let (last, temp) = (path(&server, "a"), path(&server, "a.part"));
        let (found, writer) = tokio::join!(connection.stat(&last), connection.open(&temp, options(OpenMode::CreateNew)));
        assert_eq!(found.unwrap(), None);
        writer.unwrap().close().await.unwrap();
        assert_eq!(connection.stat(&temp).await.unwrap().unwrap().size, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_one_after_the_other_share_a_stream_and_a_jump_begins_another() {
    each(async |server| {
        let (path, bytes) = (path(&server, "a"), pattern(1_000_000));
        let connection = session(&server).await.unwrap();
        put(&connection, &path, &bytes).await.unwrap();
        let reader = connection.open_read(&path).await.unwrap();
        let read = |at: usize| reader.read_at(at as u64, 100_000);
        let (a, b, c, d) = tokio::join!(read(0), read(100_000), read(200_000), read(300_000));
        assert!([a, b, c, d].map(Result::unwrap).concat() == bytes[..400_000]);
        assert!(read(900_000).await.unwrap() == bytes[900_000..]);
        assert!(read(1_000_000).await.unwrap().is_empty());
        assert!(read(50_000).await.unwrap() == bytes[50_000..150_000]);
        // Another request takes the line, and the reader goes on after it.
        connection.ping().await.unwrap();
        assert!(read(150_000).await.unwrap() == bytes[150_000..250_000]);
    })
    .await;
}

/// Case B10: the stream of replies is never off by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_request_leaves_no_answer_to_the_next() {
    each(async |server| {
        let connection = session(&server).await.unwrap();
        let (there, missing) = (path(&server, "a"), path(&server, "no"));
        put(&connection, &there, b"12345").await.unwrap();
        for micros in [0, 50, 100, 200, 400, 800, 1600] {
            let _ = tokio::time::timeout(std::time::Duration::from_micros(micros), connection.stat(&there)).await;
            assert_eq!(connection.stat(&missing).await.unwrap(), None);
            assert_eq!(connection.stat(&there).await.unwrap().unwrap().size, 5);
        }
    })
    .await;
}
