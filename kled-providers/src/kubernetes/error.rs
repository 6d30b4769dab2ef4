//! What the API server answers, as errors of Kled. Only its own "no such thing" is a `NotFound`.

use kled_core::{Error, ErrorKind};

/// Converts an error of the client. The server's message is kept: it names the object and the rule.
pub(super) fn from_kube(error: kube::Error) -> Error {
    let converted = match &error {
        kube::Error::Api(status) => from_status(status),
        kube::Error::Auth(_) => {
            return Error::new(ErrorKind::Unauthenticated, "the login to the cluster failed")
                .hint("look at the user of the kubeconfig's context")
                .because(error);
        }
        kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => {
            Error::new(ErrorKind::Unavailable, "the API server does not answer")
        }
        kube::Error::UpgradeConnection(_) => {
            Error::new(ErrorKind::Unavailable, "the API server did not open a connection to the pod")
        }
        kube::Error::SerdeError(_) => Error::new(ErrorKind::Internal, "the API server's answer is malformed"),
        _ => Error::new(ErrorKind::Unavailable, "the cluster cannot be asked"),
    };
    converted.because(error)
}

fn from_status(status: &kube::core::Status) -> Error {
    let message = if status.message.is_empty() { status.reason.as_str() } else { status.message.as_str() };
    let message = message.lines().next().unwrap_or_default().to_owned();
    let denied_by_quota = message.contains("exceeded quota") || message.contains("must specify limits");
    match (status.code, status.reason.as_str()) {
        (403, _) if denied_by_quota => Error::new(ErrorKind::QuotaExceeded, message)
            .hint("ask for less, delete other workspaces, or have the namespace's quota raised"),
        (401, _) => Error::new(ErrorKind::Unauthenticated, message)
            .hint("log in to the cluster again, or choose another context"),
        (403, "Forbidden") if message.contains("is being terminated") => {
            Error::new(ErrorKind::Unavailable, message)
                .hint("wait until the namespace is gone, or use another")
        }
        (403, _) => Error::new(ErrorKind::PermissionDenied, message),
        (404, "NotFound") => Error::new(ErrorKind::NotFound, message),
        (409, _) => Error::new(ErrorKind::Conflict, message).temporary(),
        (400 | 422, _) => Error::new(ErrorKind::InvalidInput, message),
        (429 | 500..=599, _) => Error::new(ErrorKind::Unavailable, message),
        _ => Error::new(ErrorKind::Internal, message),
    }
}

/// True when the server itself says that there is no such object.
pub(super) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404 && status.reason == "NotFound")
}

/// True when an object of the name exists, or was changed since it was read.
pub(super) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, reason: &str, message: &str) -> ErrorKind {
        let mut status = kube::core::Status::success();
        status.code = code;
        status.reason = reason.into();
        status.message = message.into();
        from_kube(kube::Error::Api(status.boxed())).kind()
    }

    #[test]
    fn only_the_servers_own_word_is_an_absence() {
        assert_eq!(answer(404, "NotFound", "pods \"x\" not found"), ErrorKind::NotFound);
        // What a proxy or a wrong path answers.
        assert_eq!(answer(404, "", "404 page not found"), ErrorKind::Internal);
        for code in [401, 403, 409, 429, 500, 503, 504] {
            assert_ne!(answer(code, "", "no"), ErrorKind::NotFound, "{code}");
        }
    }

    #[test]
    fn refusals_are_told_apart() {
        let quota =
            "pods \"x\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1";
        assert_eq!(answer(403, "Forbidden", quota), ErrorKind::QuotaExceeded);
        assert_eq!(answer(403, "Forbidden", "User \"a\" cannot create"), ErrorKind::PermissionDenied);
        assert_eq!(answer(401, "Unauthorized", "Unauthorized"), ErrorKind::Unauthenticated);
        assert_eq!(answer(422, "Invalid", "spec is invalid"), ErrorKind::InvalidInput);
    }
}
