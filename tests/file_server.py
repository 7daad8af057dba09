"""A local HTTP server with the faults of real ones: `files` maps names to File; what was asked for is in `asked`.

with FileServer() as server:
    server.files["a.zip"] = File(data, cut=1000)         # breaks off after 1000 bytes, once
    server.url("a.zip")
"""

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class File:
    data: bytes
    etag: str | None = None  # None: made of the data; "": none is sent
    ranges: bool = True  # honours Range
    obeys_if_range: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which the connection breaks, one a request
    then: int = 200  # status after a break
    length: bool = True  # sends Content-Length
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha1(self.data).hexdigest()}"' if self.etag is None else self.etag


class FileServer:
    def __init__(self):
        self.files: dict[str, File] = {}
        self.asked: list[tuple[str, str]] = []  # name, Range
        self.encodings: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                owner._answer(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.server.shutdown()
        self.server.server_close()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"

    def _answer(self, handler):
        name, wanted = handler.path.strip("/"), handler.headers.get("Range", "")
        self.asked.append((name, wanted))
        self.encodings.append(handler.headers.get("Accept-Encoding", ""))
        file = self.files.get(name)
        if file is None or file.status != 200:
            handler.send_error(404 if file is None else file.status)
            return
        start = self._start(file, wanted, handler.headers.get("If-Range"))
        if start >= len(file.data) and start:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(file.data)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(file.data) - 1}/{len(file.data)}")
        if file.length:
            handler.send_header("Content-Length", str(len(file.data) - start))
        for key, value in file.headers.items():
            handler.send_header(key, value)
        if file.tag:
            handler.send_header("ETag", file.tag)
        handler.end_headers()
        if file.cuts:
            file.status = file.then
        handler.wfile.write(file.data[start:][: file.cuts.pop(0) if file.cuts else None])

    def _start(self, file, wanted, if_range):
        other = file.obeys_if_range and if_range != file.tag
        return 0 if not (wanted and file.ranges) or other else int(wanted.removeprefix("bytes=").rstrip("-"))
