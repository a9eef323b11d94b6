//! The built-in ticket register: how the numbers of its tickets are written.

/// Before the number, so that nobody takes it for one of another system.
const PREFIX: &str = "FFT";

/// How people write the number of a ticket.
pub fn shown(number: u64) -> String {
    format!("{PREFIX}{number:07}")
}

/// The number that people wrote.
pub fn number(text: &str) -> Option<u64> {
    text.strip_prefix(PREFIX)?.parse().ok()
}
