//! The test kit against itself: each fault happens, and without faults nothing does.

mod http;
mod proxy;
mod s3_faults;
mod s3_objects;
