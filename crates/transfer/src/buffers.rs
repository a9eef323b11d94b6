//! Buffers of ranges, used again: a fresh one of several MiB costs a page fault every 4 KiB, and the allocator keeps
//! what it cannot fit elsewhere. There are never more than the byte budget lets be in use at once.

use std::sync::Mutex;

use bytes::{Bytes, BytesMut};

/// Smaller ones are the allocator's business.
const LEAST: usize = 1 << 20;
/// More than this many idle buffers are given back to the system.
const IDLE: usize = 16;

static POOL: Mutex<Vec<BytesMut>> = Mutex::new(Vec::new());

/// An empty buffer with room for `length` bytes.
pub fn take(length: usize) -> BytesMut {
    if length >= LEAST {
        let mut pool = POOL.lock().expect("no panic while holding the lock");
        // The smallest that fits, so that a large one is there for a large range.
        let fits = pool.iter().enumerate().filter(|(_, b)| b.capacity() >= length).min_by_key(|(_, b)| b.capacity()).map(|(at, _)| at);
        if let Some(at) = fits {
            return pool.swap_remove(at);
        }
    }
    BytesMut::with_capacity(length)
}

/// Gives a buffer back if nobody else looks at it any more.
pub fn give_back(data: Bytes) {
    if data.len() < LEAST {
        return;
    }
    if let Ok(mut buffer) = data.try_into_mut() {
        buffer.clear();
        let mut pool = POOL.lock().expect("no panic while holding the lock");
        if pool.len() < IDLE {
            pool.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_nobody_looks_at_is_used_again() {
        let length = 3 << 20;
        let mut buffer = take(length);
        buffer.resize(length, 7);
        let place = buffer.as_ptr();
        let data = buffer.freeze();
        let part = data.slice(10..20);
        drop(part);
        give_back(data);
        let again = take(length);
        assert_eq!(again.as_ptr(), place);
        assert!(again.is_empty() && again.capacity() >= length);
    }

    #[test]
    fn a_buffer_that_is_still_looked_at_is_left_alone() {
        let mut buffer = take(2 << 20);
        buffer.resize(2 << 20, 1);
        let data = buffer.freeze();
        let part = data.slice(0..10);
        give_back(data);
        assert_eq!(&part[..], &[1; 10]);
    }
}
