"""Supabase Storage as its REST API speaks (storage server, routes `/object` and `/bucket`).

Almost every handled error is HTTP 400 with the real status inside: {"statusCode": "404", "error":
"not_found", "message": "..."} (Supabase Storage server, error handler).
"""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from dreamcuts.sandbox.buckets import Buckets, StorageFault, StoredObject
from dreamcuts.sandbox.multipart import parse_multipart
from dreamcuts.sandbox.state import SandboxState, make_token, read_token

MAX_UPLOAD = 50 * 1024 * 1024
"""Largest standard upload in bytes (storage server, UPLOAD_FILE_SIZE_LIMIT_STANDARD)."""


def routes(state: SandboxState) -> list[BaseRoute]:
    """The routes below `/supabase/storage/v1`."""
    storage = _Storage(state, Buckets(state.storage))
    storage.buckets.create("production-assets", public=True)

    def route(path: str, handler: Any, *methods: str, key: bool = True) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                if key:
                    storage.authorise(request)
                answer: Response = await handler(request)
                return answer
            except StorageFault as fault:
                return JSONResponse(fault.body(), fault.http_status)

        return Route(path, endpoint, methods=list(methods))

    return [
        route("/bucket", storage.list_buckets, "GET"),
        route("/bucket", storage.create_bucket, "POST"),
        route("/bucket/{bucket}/empty", storage.empty_bucket, "POST"),
        route("/bucket/{bucket}", storage.get_bucket, "GET"),
        route("/bucket/{bucket}", storage.update_bucket, "PUT"),
        route("/bucket/{bucket}", storage.delete_bucket, "DELETE"),
        route("/object/copy", storage.copy, "POST"),
        route("/object/move", storage.move, "POST"),
        route("/object/list/{bucket}", storage.list_objects, "POST"),
        route("/object/info/{bucket}/{path:path}", storage.info, "GET"),
        route("/object/public/{bucket}/{path:path}", storage.get_public, "GET", key=False),
        route("/object/upload/sign/{bucket}/{path:path}", storage.sign_upload, "POST"),
        route("/object/upload/sign/{bucket}/{path:path}", storage.upload_signed, "PUT", key=False),
        route("/object/sign/{bucket}", storage.sign_many, "POST"),
        route("/object/sign/{bucket}/{path:path}", storage.sign, "POST"),
        route("/object/sign/{bucket}/{path:path}", storage.get_signed, "GET", key=False),
        route("/object/authenticated/{bucket}/{path:path}", storage.get_object, "GET"),
        route("/object/{bucket}", storage.remove, "DELETE"),
        route("/object/{bucket}/{path:path}", storage.upload, "POST"),
        route("/object/{bucket}/{path:path}", storage.update, "PUT"),
        route("/object/{bucket}/{path:path}", storage.get_object, "GET"),
        route("/object/{bucket}/{path:path}", storage.remove_one, "DELETE"),
    ]


class _Storage:
    def __init__(self, state: SandboxState, buckets: Buckets) -> None:
        self.state = state
        self.buckets = buckets

    def authorise(self, request: Request) -> None:
        header = request.headers.get("authorization", "")
        if not header:
            raise StorageFault(
                400, "InvalidRequest", "Error", "headers must have required property 'authorization'"
            )
        if header != f"Bearer {self.state.keys.supabase}":
            raise StorageFault(403, "InvalidJWT", "Unauthorized", "signature verification failed")

    async def list_buckets(self, request: Request) -> Response:
        return JSONResponse([bucket.as_json() for bucket in self.buckets.all()])

    async def create_bucket(self, request: Request) -> Response:
        body = await _json(request)
        name = str(body.get("id") or body.get("name") or "")
        self.buckets.create(name, public=bool(body.get("public", False)), fresh=True)
        return JSONResponse({"name": name})

    async def get_bucket(self, request: Request) -> Response:
        return JSONResponse(self.buckets.get(request.path_params["bucket"]).as_json())

    async def update_bucket(self, request: Request) -> Response:
        body = await _json(request)
        self.buckets.get(request.path_params["bucket"]).public = bool(body.get("public", False))
        return JSONResponse({"message": "Successfully updated"})

    async def delete_bucket(self, request: Request) -> Response:
        self.buckets.delete(request.path_params["bucket"])
        return JSONResponse({"message": "Successfully deleted"})

    async def empty_bucket(self, request: Request) -> Response:
        bucket = self.buckets.get(request.path_params["bucket"])
        self.buckets.remove(bucket.name, list(bucket.objects))
        return JSONResponse({"message": "Successfully emptied"})

    async def upload(self, request: Request) -> Response:
        upsert = request.headers.get("x-upsert", "false").lower() == "true"
        return await self._store(request, upsert=upsert, must_exist=False)

    async def update(self, request: Request) -> Response:
        return await self._store(request, upsert=True, must_exist=True)

    async def _store(self, request: Request, *, upsert: bool, must_exist: bool) -> Response:
        bucket, path = request.path_params["bucket"], request.path_params["path"]
        self.buckets.check_path(bucket, path, upsert=upsert, must_exist=must_exist)
        data, content_type, cache = await _upload_body(request)
        stored = self.buckets.put(bucket, path, data, content_type, cache)
        return JSONResponse({"Id": stored.id, "Key": f"{bucket}/{path}"})

    async def get_object(self, request: Request) -> Response:
        return self._serve(request)

    async def get_public(self, request: Request) -> Response:
        if not self.buckets.get(request.path_params["bucket"]).public:
            raise StorageFault(404, "NoSuchBucket", "Bucket not found", "Bucket not found")
        return self._serve(request)

    async def get_signed(self, request: Request) -> Response:
        self._check_token(request, "read")
        return self._serve(request)

    def _serve(self, request: Request) -> Response:
        stored = self.buckets.object(request.path_params["bucket"], request.path_params["path"])
        headers = {"cache-control": stored.cache_control}
        if (name := request.query_params.get("download")) is not None:
            headers["content-disposition"] = f'attachment; filename="{name or stored.name}"'
        # FileResponse answers Range, HEAD and conditional requests.
        return FileResponse(stored.file, media_type=stored.content_type, headers=headers)

    async def info(self, request: Request) -> Response:
        stored = self.buckets.object(request.path_params["bucket"], request.path_params["path"])
        return JSONResponse(stored.as_info(request.path_params["bucket"]))

    async def list_objects(self, request: Request) -> Response:
        body = await _json(request)
        entries = self.buckets.listing(request.path_params["bucket"], str(body.get("prefix") or ""))
        search = str(body.get("search") or "")
        entries = [entry for entry in entries if search in str(entry["name"])]
        order = body.get("sortBy") or {}
        column = str(order.get("column") or "name")
        entries.sort(key=lambda entry: str(entry.get(column) or ""), reverse=order.get("order") == "desc")
        start = int(body.get("offset") or 0)
        return JSONResponse(entries[start : start + int(body.get("limit") or 100)])

    async def remove(self, request: Request) -> Response:
        prefixes = (await _json(request)).get("prefixes")
        if not isinstance(prefixes, list) or not prefixes:
            raise StorageFault(400, "InvalidRequest", "Error", "body must have required property 'prefixes'")
        bucket = request.path_params["bucket"]
        gone = self.buckets.remove(bucket, [str(prefix) for prefix in prefixes])
        return JSONResponse([stored.as_info(bucket) for stored in gone])

    async def remove_one(self, request: Request) -> Response:
        bucket, path = request.path_params["bucket"], request.path_params["path"]
        self.buckets.object(bucket, path)
        self.buckets.remove(bucket, [path])
        return JSONResponse({"message": "Successfully deleted"})

    async def copy(self, request: Request) -> Response:
        source, target, bucket = await self._pair(request)
        copied = self.buckets.put(
            bucket, target, source.file.read_bytes(), source.content_type, source.cache_control
        )
        return JSONResponse({"Id": copied.id, "Key": f"{bucket}/{target}"})

    async def move(self, request: Request) -> Response:
        source, target, bucket = await self._pair(request)
        self.buckets.put(bucket, target, source.file.read_bytes(), source.content_type, source.cache_control)
        self.buckets.remove(bucket, [source.name])
        return JSONResponse({"message": "Successfully moved"})

    async def _pair(self, request: Request) -> tuple[StoredObject, str, str]:
        body = await _json(request)
        bucket, target = str(body.get("bucketId")), str(body.get("destinationKey"))
        source = self.buckets.object(bucket, str(body.get("sourceKey")))
        self.buckets.check_path(bucket, target, upsert=False, must_exist=False)
        return source, target, bucket

    async def sign(self, request: Request) -> Response:
        bucket, path = request.path_params["bucket"], request.path_params["path"]
        self.buckets.object(bucket, path)
        expires = _expires((await _json(request)).get("expiresIn"))
        return JSONResponse({"signedURL": self._signed(bucket, path, expires)})

    async def sign_many(self, request: Request) -> Response:
        body, bucket = await _json(request), request.path_params["bucket"]
        expires = _expires(body.get("expiresIn"))
        answer: list[dict[str, Any]] = []
        for path in body.get("paths") or []:
            found = path in self.buckets.get(bucket).objects
            error = None if found else "Either the object does not exist or you do not have access to it"
            url = self._signed(bucket, path, expires) if found else None
            answer.append({"path": path, "signedURL": url, "error": error})
        return JSONResponse(answer)

    def _signed(self, bucket: str, path: str, expires: int) -> str:
        return f"/object/sign/{bucket}/{path}?token={self._token('read', bucket, path, expires)}"

    async def sign_upload(self, request: Request) -> Response:
        bucket, path = request.path_params["bucket"], request.path_params["path"]
        upsert = request.headers.get("x-upsert", "false").lower() == "true"
        self.buckets.check_path(bucket, path, upsert=upsert, must_exist=False)
        token = self._token("upsert" if upsert else "upload", bucket, path, 7200)
        return JSONResponse({"url": f"/object/upload/sign/{bucket}/{path}?token={token}", "token": token})

    async def upload_signed(self, request: Request) -> Response:
        use = self._check_token(request, "upload", "upsert")
        return await self._store(request, upsert=use == "upsert", must_exist=False)

    def _token(self, use: str, bucket: str, path: str, expires: int) -> str:
        claims = {"url": f"{bucket}/{path}", "use": use, "exp": int(time.time()) + expires}
        return make_token(claims, self.state.keys.supabase_secret)

    def _check_token(self, request: Request, *uses: str) -> str:
        claims = read_token(request.query_params.get("token", ""), self.state.keys.supabase_secret)
        if claims is None or claims.get("use") not in uses:
            raise StorageFault(400, "InvalidJWT", "InvalidJWT", "jws error: signature verification failed")
        if claims["exp"] < time.time():
            raise StorageFault(400, "InvalidJWT", "InvalidJWT", '"exp" claim timestamp check failed')
        if claims["url"] != f"{request.path_params['bucket']}/{request.path_params['path']}":
            raise StorageFault(
                400, "InvalidSignature", "InvalidSignature", "The url do not match the signature"
            )
        return str(claims["use"])


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError:
        raise StorageFault(400, "InvalidRequest", "Error", "Body is not valid JSON") from None
    return body if isinstance(body, dict) else {}


def _expires(given: Any) -> int:
    """`expiresIn` in seconds; the Python client sends it as a string."""
    try:
        seconds = int(given)
    except (TypeError, ValueError):
        seconds = 0
    if seconds < 1:
        raise StorageFault(400, "InvalidRequest", "Error", "body/expiresIn must be >= 1")
    return seconds


async def _upload_body(request: Request) -> tuple[bytes, str, str]:
    """The file of an upload, sent raw or as a form: data, content type, cache-control."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_UPLOAD:
            message = "The object exceeded the maximum allowed size"
            raise StorageFault(413, "EntityTooLarge", "Payload too large", message)
    content_type = request.headers.get("content-type", "application/octet-stream")
    if not content_type.startswith("multipart/form-data"):
        return bytes(data), content_type, request.headers.get("cache-control", "no-cache")
    try:
        parts = parse_multipart(bytes(data), content_type)
    except ValueError as error:
        raise StorageFault(400, "InvalidRequest", "Error", f"The form cannot be read: {error}") from None
    files = [part for part in parts if part.filename or part.name in ("", "file")]
    if not files:
        raise StorageFault(400, "InvalidRequest", "Error", "The form holds no file")
    cache = next((part.data.decode() for part in parts if part.name == "cacheControl"), "3600")
    return files[0].data, files[0].content_type or "application/octet-stream", f"max-age={cache}"
