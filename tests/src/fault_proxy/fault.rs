//! What can go wrong, and how the API server says so.

use std::fmt;

use anyhow::Result;
use http::{Response, StatusCode, header};
use serde_json::{Value, json};

use super::request::ApiRequest;
use crate::http_server::{self, Body};

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    effect: Effect,
    after: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Effect {
    Answer(u16),
    Hang,
    Cut,
}

impl Fault {
    /// 401, as for a token that has expired.
    pub const UNAUTHORIZED: Self = Self::answer(401);
    /// 403, as for a missing role.
    pub const FORBIDDEN: Self = Self::answer(403);
    /// 409 of an object that changed meanwhile.
    pub const CONFLICT: Self = Self::answer(409);
    /// 429 with `Retry-After: 1`.
    pub const TOO_MANY_REQUESTS: Self = Self::answer(429);
    /// 500, as when the store is in trouble.
    pub const INTERNAL_ERROR: Self = Self::answer(500);
    /// 503, as while the API server shuts down.
    pub const UNAVAILABLE: Self = Self::answer(503);
    /// 504, as when the store is slow.
    pub const GATEWAY_TIMEOUT: Self = Self::answer(504);
    /// No answer, for as long as the client waits.
    pub const HANG: Self = Self { effect: Effect::Hang, after: false };
    /// The connection ends without an answer.
    pub const CUT: Self = Self { effect: Effect::Cut, after: false };

    /// Every fault that a real API server, or the network before it, shows.
    pub const ALL: [Self; 13] = [
        Self::UNAUTHORIZED,
        Self::FORBIDDEN,
        Self::CONFLICT,
        Self::TOO_MANY_REQUESTS,
        Self::INTERNAL_ERROR,
        Self::UNAVAILABLE,
        Self::GATEWAY_TIMEOUT,
        Self::HANG,
        Self::CUT,
        Self::INTERNAL_ERROR.after(),
        Self::GATEWAY_TIMEOUT.after(),
        Self::HANG.after(),
        Self::CUT.after(),
    ];

    const fn answer(status: u16) -> Self {
        Self { effect: Effect::Answer(status), after: false }
    }

    /// The same, but only once the server has done what was asked for; its own answer is lost.
    #[must_use]
    pub const fn after(self) -> Self {
        Self { after: true, ..self }
    }

    /// Whether the server does what was asked for.
    #[must_use]
    pub const fn is_after(self) -> bool {
        self.after
    }

    pub(super) fn effect(self) -> Effect {
        self.effect
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.effect {
            Effect::Answer(status) => write!(formatter, "{status}")?,
            Effect::Hang => formatter.write_str("hang")?,
            Effect::Cut => formatter.write_str("cut")?,
        }
        formatter.write_str(if self.after { " after it was done" } else { "" })
    }
}

/// The API server's own answer of that status.
pub(super) fn answer(status: u16, asked: &ApiRequest) -> Result<Response<Body>> {
    let mut response = Response::builder()
        .status(StatusCode::from_u16(status)?)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CACHE_CONTROL, "no-cache, private");
    if status == 429 {
        response = response.header(header::RETRY_AFTER, "1");
    }
    Ok(response.body(http_server::whole(status_object(status, asked).to_string()))?)
}

fn status_object(status: u16, asked: &ApiRequest) -> Value {
    let (resource, name) = (&asked.resource, asked.name.as_deref().unwrap_or_default());
    let (reason, message) = match status {
        401 => ("Unauthorized", "Unauthorized".to_owned()),
        403 => {
            let verb = asked.verb;
            (
                "Forbidden",
                format!("{resource} is forbidden: User \"kled\" cannot {verb} resource \"{resource}\""),
            )
        }
        409 => (
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {resource} \"{name}\": the object has been modified; \
                 please apply your changes to the latest version and try again"
            ),
        ),
        429 => (
            "TooManyRequests",
            "the server has received too many requests and has asked us to try again later".to_owned(),
        ),
        503 => ("ServiceUnavailable", "the server is currently unable to handle the request".to_owned()),
        504 => ("Timeout", "Timeout: request did not complete within the allotted timeout".to_owned()),
        _ => ("InternalError", "Internal error occurred: etcdserver: request timed out".to_owned()),
    };
    let details = match status {
        401 => Value::Null,
        429 => json!({"name": name, "kind": resource, "retryAfterSeconds": 1}),
        _ => json!({"name": name, "kind": resource}),
    };
    let mut object = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": status,
    });
    if !details.is_null() {
        object["details"] = details;
    }
    object
}
