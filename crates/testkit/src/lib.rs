//! What tests and `make demo` run against: an S3 server inside the process and a TCP proxy that breaks connections.
//! Nothing here is for production.

pub mod pace;
pub mod proxy;
pub mod s3;
