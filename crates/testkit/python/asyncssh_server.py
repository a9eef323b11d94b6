"""An asyncssh SFTP server for tests: asyncssh_server.py HOME USER [--refuse-posix-rename].

HOME holds host_key, client_key.pub and the directory files, which clients see as /. The password is in the
environment (SFTP_PASSWORD). Prints "port N" when it listens.
"""

import asyncio
import os
import sys

import asyncssh


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return True

    def password_auth_supported(self):
        return True

    def validate_password(self, username, password):
        return username == USER and password == os.environ["SFTP_PASSWORD"]


class Sftp(asyncssh.SFTPServer):
    def __init__(self, channel):
        super().__init__(channel, chroot=os.path.join(HOME, "files"))

    def posix_rename(self, oldpath, newpath):
        if "--refuse-posix-rename" in sys.argv:
            raise asyncssh.SFTPOpUnsupported("posix-rename is switched off")
        return super().posix_rename(oldpath, newpath)


async def main():
    listener = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_factory=Server,
        sftp_factory=Sftp,
        server_host_keys=[os.path.join(HOME, "host_key")],
        authorized_client_keys=os.path.join(HOME, "client_key.pub"),
    )
    print("port", listener.get_port(), flush=True)
    await listener.wait_closed()


HOME, USER = sys.argv[1], sys.argv[2]
asyncio.run(main())
