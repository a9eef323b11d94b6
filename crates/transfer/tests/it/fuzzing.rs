//! The entry points of the fuzzers in `fuzz/`, each with 100,000 inputs.

use testkit::fuzz::feed;
use transfer::{ftp, sftp};

#[test]
fn no_bytes_break_the_parser_of_replies() {
    feed("ftp_reply", ftp::fuzzing::reply);
}

#[test]
fn no_bytes_break_the_parser_of_features() {
    feed("ftp_features", ftp::fuzzing::features);
}

#[test]
fn no_bytes_break_the_parsers_of_listings() {
    feed("ftp_listing", ftp::fuzzing::listing);
}

#[test]
fn no_bytes_break_the_parsers_of_passive_ports() {
    feed("ftp_passive", ftp::fuzzing::passive);
}

#[test]
fn no_bytes_break_the_parser_of_sftp_packets() {
    feed("sftp_packets", sftp::fuzzing::packets);
}

#[test]
fn no_text_breaks_the_reader_of_known_hosts() {
    feed("known_hosts", sftp::fuzzing::known_hosts);
}

#[test]
fn no_text_breaks_the_reader_of_ssh_config() {
    feed("ssh_config", sftp::fuzzing::ssh_config);
}

#[test]
fn no_template_and_no_key_lead_out_of_the_directory() {
    feed("templates", model::fuzzing::templates);
}
