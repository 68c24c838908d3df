"""A camera: GStreamer's RTSP server, playing a few seconds of pictures over and over.

Run by the system's Python, which has GStreamer's bindings: ``gst_camera.py PORT CODEC FILE FPS [USER PASSWORD]``. FILE
holds encoded pictures, each behind its length in four bytes; CODEC is h264, h265 or jpeg. Sound, a tone in mu-law, goes
along with it. Prints one line once it listens.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

VIDEO = {
    "h264": ("video/x-h264,stream-format=byte-stream,alignment=au", "rtph264pay config-interval=-1"),
    "h265": ("video/x-h265,stream-format=byte-stream,alignment=au", "rtph265pay config-interval=-1"),
    "jpeg": ("image/jpeg,width=160,height=120,framerate=10/1", "rtpjpegpay"),
}


def pictures(path: Path) -> list[bytes]:
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (size,) = struct.unpack_from("!I", data, at)
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def feed(media: Any, units: list[bytes], fps: float) -> None:
    source = media.get_element().get_by_name("video")
    turn = 0

    def push() -> bool:
        nonlocal turn
        flow = source.emit("push-buffer", Gst.Buffer.new_wrapped(units[turn % len(units)]))
        turn += 1
        return bool(flow == Gst.FlowReturn.OK)

    GLib.timeout_add(round(1000 / fps), push)


def demand(server: Any, factory: Any, user: str, password: str) -> None:
    """Digest authentication for everything that the server has."""
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    auth.add_digest(user, password, token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_role("viewer")
    for name in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("viewer", name, True)
    factory.set_permissions(permissions)


def main(port: str, codec: str, path: str, fps: str, *credentials: str) -> None:
    Gst.init(None)
    caps, payloader = VIDEO[codec]
    units = pictures(Path(path))
    factory = GstRtspServer.RTSPMediaFactory()
    tone = "audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 ! mulawenc ! rtppcmupay name=pay1"
    video = f'appsrc name=video is-live=true do-timestamp=true format=time caps="{caps}"'
    factory.set_launch(f"( {video} ! {payloader} name=pay0 {tone} )")
    factory.set_shared(True)
    factory.connect("media-configure", lambda factory, media: feed(media, units, float(fps)))
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    if credentials:
        demand(server, factory, *credentials)
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    print("listening", flush=True)  # noqa: T201
    GLib.MainLoop().run()


if __name__ == "__main__":
    main(*sys.argv[1:])
