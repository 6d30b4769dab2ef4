//! `forwardPorts` and `portsAttributes`.

use std::num::NonZeroU16;

use jsonc_parser::ast::Value;

use super::super::{ForwardedPort, IgnoredField, IgnoredReason};
use super::document::Field;
use crate::Result;

const HINT: &str = "write an array of numbers and \"host:port\": [3000, \"db:5432\"]";

pub(super) fn forwarded(field: &Field<'_, '_>) -> Result<Vec<ForwardedPort>> {
    let mut ports = Vec::new();
    for element in field.elements(HINT)? {
        let text = match element.value {
            Value::NumberLit(number) => number.value.to_owned(),
            Value::StringLit(text) => text.value.clone().into_owned(),
            _ => return Err(element.malformed("it is not a port", HINT)),
        };
        let port: ForwardedPort = text.parse().map_err(|error| element.at(error))?;
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    Ok(ports)
}

/// Which ports a label is for.
enum Match {
    Port(ForwardedPort),
    Range(NonZeroU16, NonZeroU16),
}

impl Match {
    fn of(text: &str) -> Option<Self> {
        if let Some((first, last)) = text.split_once('-')
            && let (Ok(first), Ok(last)) = (first.parse(), last.parse())
        {
            return Some(Self::Range(first, last));
        }
        text.parse().ok().map(Self::Port)
    }

    fn covers(&self, port: &ForwardedPort) -> bool {
        match self {
            Self::Port(wanted) => (&wanted.host, wanted.number) == (&port.host, port.number),
            Self::Range(first, last) => port.host.is_none() && (first..=last).contains(&&port.number),
        }
    }
}

/// The names of ports.
pub(super) struct Labels(Vec<(Match, String)>);

impl Labels {
    /// A name for the port itself goes before one for a range.
    pub(super) fn apply(&self, ports: &mut [ForwardedPort]) {
        for port in ports {
            let covers = |exact: bool| {
                self.0.iter().find(|(key, _)| matches!(key, Match::Port(_)) == exact && key.covers(port))
            };
            port.label = covers(true).or_else(|| covers(false)).map(|(_, label)| label.clone());
        }
    }
}

/// Takes the labels; all other attributes are for editors.
pub(super) fn labels(field: &Field<'_, '_>, ignored: &mut Vec<IgnoredField>) -> Result<Labels> {
    let hint = "write an object of objects: {\"3000\": {\"label\": \"web\"}}";
    let mut labels = Vec::new();
    for (key, port) in field.fields(ignored, hint)? {
        let Some(key) = Match::of(&key) else {
            ignored.push(port.ignored(IgnoredReason::Expression));
            continue;
        };
        let mut label = None;
        for (name, attribute) in port.fields(ignored, hint)? {
            if name == "label" {
                label = Some(attribute.string(hint)?);
            } else {
                ignored.push(attribute.ignored(IgnoredReason::Editor));
            }
        }
        labels.extend(label.map(|label| (key, label)));
    }
    Ok(Labels(labels))
}
