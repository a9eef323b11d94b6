//! The test kit against itself: each fault happens, and without faults nothing does. A fault that is not there would
//! make every fault test pass.

mod cli;
mod faults;
mod ftp;
mod ftp_behaviour;
mod ftp_raw;
mod ftp_sandbox;
mod http;
mod logins;
mod mirror;
mod proxy;
mod raw;
mod real;
mod s3_faults;
mod s3_objects;
