//! This process as leases name it, and whether another one still lives.

use app::transfers::Holder;
use jiff::SignedDuration;
use store::Lease;

/// Names this process for leases that last so long.
pub fn holder(lease: SignedDuration) -> Holder {
    let pid = std::process::id();
    let mut random = [0u8; 16];
    // Without randomness pid and start time still tell processes apart.
    let _ = aws_lc_rs::rand::fill(&mut random);
    Holder { name: data_encoding::HEXLOWER.encode(&random), pid, process_start: start_of(pid).unwrap_or_default(), host: host(), lease }
}

/// Whether the holder of a lease is certainly gone. A stopped process is not; its lease has to run out.
pub fn is_dead(lease: &Lease) -> bool {
    // Nothing is known of processes on other machines.
    lease.host == host() && !lease.process_start.is_empty() && start_of(lease.pid).as_deref() != Some(&lease.process_start)
}

/// Boot and start time of a living process; the pid alone may have been given to another one.
fn start_of(pid: u32) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; fields are counted after it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, start) = (fields.first()?, fields.get(19)?);
    // A zombie only waits for its parent to look.
    (*state != "Z").then(|| format!("{}:{start}", boot.trim()))
}

fn host() -> String {
    std::fs::read_to_string("/etc/machine-id")
        .or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname"))
        .map(|text| text.trim().to_owned())
        .unwrap_or_else(|_| "this machine".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &Holder) -> Lease {
        Lease {
            resource: "r".into(),
            holder: holder.name.clone(),
            pid: holder.pid,
            process_start: holder.process_start.clone(),
            host: holder.host.clone(),
            epoch: 1,
            expires_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_recycled_pid_is_not_the_holder() {
        let me = holder(app::transfers::LEASE);
        assert!(!is_dead(&lease(&me)));
        let earlier = Holder { process_start: "another boot:1".into(), ..me.clone() };
        assert!(is_dead(&lease(&earlier)));
        let elsewhere = Holder { host: "another machine".into(), process_start: "x:1".into(), ..me };
        assert!(!is_dead(&lease(&elsewhere)), "nothing is known of other machines");
    }
}
