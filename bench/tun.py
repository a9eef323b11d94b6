"""Opens a TUN device, gives it an address, puts it on file descriptor FD and becomes COMMAND.

usage: tun.py ADDRESS FD COMMAND...

For the far line of the benchmark: the kernel hands such a device out only by an ioctl.
"""
import fcntl
import ipaddress
import os
import struct
import subprocess
import sys

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
NAME, MTU = "far0", "9000"

address, descriptor, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
device = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", NAME.encode(), IFF_TUN | IFF_NO_PI))
for setting in (["addr", "add", address, "dev", NAME], ["link", "set", NAME, "mtu", MTU, "txqueuelen", "20000", "up"], ["link", "set", "lo", "up"]):
    subprocess.run(["ip", *setting], check=True)
# Most machines' way of filling a line, whatever this one has as its default.
network = str(ipaddress.ip_interface(address).network)
subprocess.run(["ip", "route", "replace", network, "dev", NAME, "congctl", "cubic"], check=False)
os.dup2(device, descriptor, inheritable=True)
os.execvp(command[0], command)
