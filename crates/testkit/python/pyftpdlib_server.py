"""A pyftpdlib FTP server for tests: pyftpdlib_server.py SETTINGS, a JSON file that testkit writes."""

import _strptime  # noqa: F401  Python loads it late, when it may be out of reach.
import json
import logging
import os
import sys

from OpenSSL import SSL
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import DTPHandler, FTPHandler, TLS_DTPHandler, TLS_FTPHandler
from pyftpdlib.servers import FTPServer

with open(sys.argv[1], encoding="utf-8") as file:
    settings = json.load(file)


class ImplicitTls(TLS_FTPHandler):
    """TLS from the first byte: the handshake comes before the greeting."""

    def handle(self):
        self.secure_connection(self.ssl_context)
        super().handle()


def tls_context():
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_chain_file(settings["certificate"])
    context.use_privatekey_file(settings["certificate"])
    # Without it OpenSSL refuses to resume a session in which a client certificate was asked for.
    context.set_session_id(b"testkit")
    versions = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
    lowest = highest = versions.get(settings["tls_version"])
    context.set_min_proto_version(lowest or SSL.TLS1_2_VERSION)
    context.set_max_proto_version(highest or SSL.TLS1_3_VERSION)
    if settings["client_certificate"]:
        context.load_verify_locations(settings["authority"])
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *a: bool(a[4]))
    return context


def permissions():
    # The letters of pyftpdlib: enter, list, read; append, delete, rename, make directory, write, mode, time.
    letters = "elradfmwMT"
    if settings["write_only"]:
        letters = letters.replace("r", "")
    if settings["no_rename"]:
        letters = letters.replace("f", "")
    return letters


def become_the_account():
    if settings["account"]:
        user, group = settings["account"]
        os.setgroups([])
        os.setgid(group)
        os.setuid(user)


def main():
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    tls = settings["certificate"] is not None
    base = FTPHandler if not tls else ImplicitTls if settings["implicit"] else TLS_FTPHandler

    class Data(TLS_DTPHandler if tls else DTPHandler):
        timeout = settings["data_timeout"] or 300

    class Handler(base):
        authorizer = DummyAuthorizer()
        dtp_handler = Data
        passive_ports = range(settings["passive"][0], settings["passive"][1] + 1)
        proto_cmds = base.proto_cmds.copy()
        timeout = settings["idle_timeout"] or 300
        auth_failed_timeout = 0
        banner = "pyftpdlib ready."

    if tls:
        Handler.ssl_context = tls_context()
        Handler.tls_control_required = Handler.tls_data_required = settings["required"]
    if settings["no_size"]:
        del Handler.proto_cmds["SIZE"]
    if settings["write_only"]:
        for command in ("LIST", "NLST", "MLSD", "STAT"):
            del Handler.proto_cmds[command]
    Handler.authorizer.add_user(settings["user"], settings["password"], settings["root"], perm=permissions())
    server = FTPServer((settings["host"], settings["port"]), Handler)
    # Only now: Python itself may lie where only root gets to, and loads some of its parts late.
    become_the_account()
    server.max_cons_per_ip = settings["max_per_ip"] or 0
    server.serve_forever()


main()
