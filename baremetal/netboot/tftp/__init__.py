"""A read-only TFTP server that maps names to bytes, for loaders that know nothing else.

What the floors above need stands here; the parts are blind to them.
"""

from baremetal.netboot.tftp.ask import Told, ask
from baremetal.netboot.tftp.clients import Limits
from baremetal.netboot.tftp.content import Content, FileContent
from baremetal.netboot.tftp.names import is_harmless
from baremetal.netboot.tftp.packets import PORT
from baremetal.netboot.tftp.server import Request, Resolve, Seen, TftpServer
from baremetal.netboot.tftp.sockets import bind
from baremetal.netboot.tftp.transfer import Outcome, Patience

__all__ = [
    "PORT",
    "Content",
    "FileContent",
    "Limits",
    "Outcome",
    "Patience",
    "Request",
    "Resolve",
    "Seen",
    "TftpServer",
    "Told",
    "ask",
    "bind",
    "is_harmless",
]
