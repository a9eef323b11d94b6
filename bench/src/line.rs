//! A line of a given rate and length between two TUN devices: a queue with a bound each way, as a router has it. It
//! stands for `tc netem`, which not every kernel has. The devices are the file descriptors 0 and 1 (`bench/tun.py`).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Larger than any packet of a device.
const LARGEST: usize = 64 << 10;
/// Packets leave in batches of this time: finer sleeps would only burn the processor that is measured.
const TICK: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy)]
pub struct Line {
    pub bits_per_second: f64,
    pub one_way: Duration,
}

impl Line {
    /// What the rate brings in one round trip: the classic size of a router's queue.
    fn queue(&self) -> f64 {
        self.bits_per_second / 8.0 * self.one_way.as_secs_f64() * 2.0
    }
}

#[derive(Debug, Default)]
struct Queue {
    packets: VecDeque<(Instant, Vec<u8>)>,
    free_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Way {
    queue: Mutex<Queue>,
    filled: Condvar,
}

impl Way {
    fn take_in(&self, line: &Line, from: BorrowedFd<'_>) {
        let mut buffer = vec![0; LARGEST];
        while let Ok(length) = rustix::io::read(from, &mut buffer) {
            let now = Instant::now();
            let mut queue = self.queue.lock().expect("no panic while locked");
            let start = queue.free_at.map_or(now, |at| at.max(now));
            let waiting = (start - now).as_secs_f64() * line.bits_per_second / 8.0;
            if waiting + length as f64 > line.queue() {
                continue; // the router's queue is full
            }
            let end = start + Duration::from_secs_f64(length as f64 * 8.0 / line.bits_per_second);
            queue.free_at = Some(end);
            queue.packets.push_back((end + line.one_way, buffer[..length].to_vec()));
            if queue.packets.len() == 1 {
                self.filled.notify_one();
            }
        }
    }

    fn hand_out(&self, to: BorrowedFd<'_>) {
        loop {
            let mut queue = self.queue.lock().expect("no panic while locked");
            while queue.packets.is_empty() {
                queue = self.filled.wait(queue).expect("no panic while locked");
            }
            let now = Instant::now();
            let due = queue.packets.iter().take_while(|(at, _)| *at <= now).count();
            if due == 0 {
                let wait = queue.packets[0].0 - now;
                drop(queue);
                std::thread::sleep(wait.min(TICK));
                continue;
            }
            let packets: Vec<_> = queue.packets.drain(..due).collect();
            drop(queue);
            for (_, packet) in packets {
                // A device that has gone takes no more packets; the reader ends then too.
                let _ = rustix::io::write(to, &packet);
            }
        }
    }
}

/// Carries packets until killed.
pub fn run(line: Line) -> Result<()> {
    let (input, output) = (std::io::stdin(), std::io::stdout());
    let (there, back) = (Way::default(), Way::default());
    std::thread::scope(|scope| {
        scope.spawn(|| there.take_in(&line, input.as_fd()));
        scope.spawn(|| there.hand_out(output.as_fd()));
        scope.spawn(|| back.take_in(&line, output.as_fd()));
        scope.spawn(|| back.hand_out(input.as_fd()));
    });
    Ok(())
}
