//! The service on real parts: an S3 server, a partner's SFTP server, a store on disk.

mod interruptions;
mod leftovers;
mod remembered;
mod scene;
mod service;
mod vast;
mod windows;
