//! What a request asks of the API server, read from its path as the API server reads it.

use std::fmt;

use http::{Method, Uri};

use super::Fault;

/// One request to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRequest {
    /// The HTTP method.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// What is to be done.
    pub verb: Verb,
    /// What kind of object is meant: `pods`, or `pods/exec` for a part of it. Empty for what is no object (`/version`).
    pub resource: String,
    /// The object's namespace.
    pub namespace: Option<String>,
    /// The object's name, if the path says one.
    pub name: Option<String>,
    /// What went wrong with it.
    pub fault: Option<Fault>,
}

/// What a request wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// One object, or what is no object.
    Get,
    /// All objects of a kind.
    List,
    /// A stream of changes.
    Watch,
    /// A new object.
    Create,
    /// A whole object replaced.
    Update,
    /// A part of an object changed; server-side apply too, which makes what is not there.
    Patch,
    /// One object, or all of a kind, removed.
    Delete,
    /// A connection to a pod, a service or a node.
    Connect,
}

impl fmt::Display for Verb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Connect => "connect",
        })
    }
}

impl fmt::Display for ApiRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.verb, self.path)
    }
}

impl ApiRequest {
    pub(super) fn read(method: &Method, uri: &Uri) -> Self {
        let object = Object::read(uri.path());
        let verb = object.verb(method, uri.query().unwrap_or_default());
        let owned = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let resource = match object.part {
            "" => object.resource.to_owned(),
            part => format!("{}/{part}", object.resource),
        };
        Self {
            method: method.clone(),
            path: uri.path().to_owned(),
            verb,
            resource,
            namespace: owned(object.namespace),
            name: owned(object.name),
            fault: None,
        }
    }
}

/// The parts of a path; those that it lacks are empty.
#[derive(Default)]
struct Object<'a> {
    namespace: &'a str,
    resource: &'a str,
    name: &'a str,
    part: &'a str,
}

impl<'a> Object<'a> {
    fn read(path: &'a str) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let parts = match parts.as_slice() {
            ["api", _version, parts @ ..] | ["apis", _, _version, parts @ ..] => parts,
            _ => return Self::default(),
        };
        let (namespace, parts) = match parts {
            // A namespace's own parts, not objects in it.
            ["namespaces", _, "status" | "finalize"] => ("", parts),
            ["namespaces", namespace, parts @ ..] if !parts.is_empty() => (*namespace, parts),
            _ => ("", parts),
        };
        let at = |index: usize| parts.get(index).copied().unwrap_or_default();
        Self { namespace, resource: at(0), name: at(1), part: at(2) }
    }

    fn verb(&self, method: &Method, query: &str) -> Verb {
        if matches!(self.part, "exec" | "attach" | "portforward" | "proxy") {
            return Verb::Connect;
        }
        let watches = query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1" | "watch"));
        match *method {
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ if watches => Verb::Watch,
            _ if self.resource.is_empty() || !self.name.is_empty() => Verb::Get,
            _ => Verb::List,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: Method, uri: &'static str) -> String {
        let request = ApiRequest::read(&method, &Uri::from_static(uri));
        let ApiRequest { verb, resource, namespace, name, .. } = request;
        format!("{verb} {resource} {} {}", namespace.unwrap_or_default(), name.unwrap_or_default())
    }

    #[test]
    fn what_is_wanted_is_read_from_method_and_path() {
        for (method, uri, expected) in [
            (Method::GET, "/version", "get   "),
            (Method::GET, "/apis/apps/v1", "get   "),
            (Method::GET, "/api/v1/namespaces", "list namespaces  "),
            (Method::GET, "/api/v1/namespaces/a", "get namespaces  a"),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "update namespaces/finalize  a"),
            (Method::GET, "/api/v1/namespaces/a/pods?limit=5", "list pods a "),
            (Method::GET, "/api/v1/pods?allowWatchBookmarks=true&watch=true", "watch pods  "),
            (Method::POST, "/api/v1/namespaces/a/pods", "create pods a "),
            (Method::PATCH, "/apis/apps/v1/namespaces/a/statefulsets/b?force=true", "patch statefulsets a b"),
            (Method::GET, "/api/v1/namespaces/a/pods/b/exec?command=ls", "connect pods/exec a b"),
            (Method::GET, "/api/v1/namespaces/a/pods/b/log", "get pods/log a b"),
            (Method::DELETE, "/api/v1/persistentvolumes/b", "delete persistentvolumes  b"),
        ] {
            assert_eq!(read(method, uri), expected, "{uri}");
        }
    }
}
