//! What the processor and the memory of this process have spent, as the system counts it.

use std::time::Duration;

/// Seconds of processor time, all threads.
pub fn processor() -> Duration {
    let usage = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // User and system time are the 14th and 15th field; the name before may hold spaces, but ends with the last bracket.
    let fields: Vec<u64> =
        usage.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
    // Ticks are hundredths of a second on every Linux that we run on.
    Duration::from_millis(fields.iter().sum::<u64>() * 10)
}

/// MiB in memory now, and at the most so far.
pub fn memory() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    (field("VmRSS:"), field("VmHWM:"))
}
