"""The API's description and the page that shows it. The page loads nothing from another host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastapi_standalone_docs
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from shared.door import PROBES
from shared.problems import MEDIA_TYPE
from shared.settings import ServiceSettings
from shared.wire import Problem

# The browser itself then refuses whatever the page might fetch from elsewhere.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'"
)


def add_docs(app: FastAPI) -> None:
    """Serve /docs (Swagger UI) from the files of the package fastapi-standalone-docs."""
    static = Path(fastapi_standalone_docs.__path__[0]) / "static"

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        root = str(request.scope.get("root_path", "")).rstrip("/")
        page = get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=app.title,
            swagger_js_url=f"{root}/docs/assets/swagger/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/assets/swagger/swagger-ui.css",
            swagger_favicon_url=f"{root}/docs/assets/fastapi/favicon.png",
            # Swagger would ask validator.swagger.io for a badge, with the address of this service.
            swagger_ui_parameters={"validatorUrl": None},
        )
        page.headers["Content-Security-Policy"] = _POLICY
        return page

    app.mount("/docs/assets", StaticFiles(directory=static))


def describe_api(app: FastAPI, settings: ServiceSettings) -> None:
    """Make /openapi.json say what holds for every route: problem+json errors and the bearer token."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            app.openapi_schema = _completed(schema, needs_token=settings.token is not None)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(schema: dict[str, Any], *, needs_token: bool) -> dict[str, Any]:
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema()
    for replaced in ("HTTPValidationError", "ValidationError"):
        schemas.pop(replaced, None)
    body = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    components["responses"] = {"Problem": {"description": "Any error, by RFC 9457", "content": body}}
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"$ref": "#/components/responses/Problem"}
            if path not in PROBES:
                operation["security"] = [{"bearer": []}] if needs_token else [{}, {"bearer": []}]
    return schema
