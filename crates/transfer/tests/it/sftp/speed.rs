use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::time::Instant;
use transfer::Connector;
#[tokio::test(flavor = "multi_thread")]
#[ignore]
async fn speed() {
    let server = super::Sshd::start().unwrap();
    let connection = server.connector(super::PATIENT).connect().await.unwrap();
    println!("software {:?} rtt {:?}", connection.identity().software, connection.identity().round_trip);
    let data = Bytes::from(vec![0x5a; 4 << 20]);
    for round in 0..4 {
        let path = server.path("big");
        let writer = connection.open(&path, super::NEW).await.unwrap();
        let start = Instant::now();
        let parts = 256u64;
        stream::iter(0..parts)
            .map(|i| writer.write_at(i * (4 << 20), data.clone()))
            .buffer_unordered(3)
            .for_each(|r| async { r.unwrap() })
            .await;
        let took = start.elapsed().as_secs_f64();
        println!("round {round}: write {:.0} MB/s ({took:.2} s)", (parts * (4 << 20)) as f64 / 1e6 / took);
        let start = Instant::now();
        stream::iter(0..parts * 16)
            .map(|i| writer.read_at(i * (256 << 10), 256 << 10))
            .buffer_unordered(8)
            .for_each(|r| async { assert_eq!(r.unwrap().len(), 256 << 10) })
            .await;
        let took = start.elapsed().as_secs_f64();
        println!("round {round}: read {:.0} MB/s ({took:.2} s)", (parts * (4 << 20)) as f64 / 1e6 / took);
        writer.close().await.unwrap();
        connection.remove(&path).await.unwrap();
    }
    let start = Instant::now();
    let n = 2000u64;
    let small = data.slice(..16 << 10);
    stream::iter(0..n)
        .map(|i| {
            let (c, s, d) = (&connection, &server, small.clone());
            async move {
                let (t, f) = (s.path(&format!("t{i}")), s.path(&format!("f{i}")));
                let w = c.open(&t, super::NEW).await.unwrap();
                w.write_at(0, d).await.unwrap();
                w.close().await.unwrap();
                c.rename(&t, &f, transfer::RenameMode::NoClobber).await.unwrap();
            }
        })
        .buffer_unordered(16)
        .collect::<Vec<_>>()
        .await;
    println!("small: {:.0} files/s", n as f64 / start.elapsed().as_secs_f64());
}
