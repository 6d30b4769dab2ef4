//! JSON with comments, whose values know where they stand.

use std::collections::BTreeMap;

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions};

use super::super::{IgnoredField, IgnoredReason, malformed};
use crate::{Error, Result};

/// Comments and trailing commas, and nothing else that JSON does not have.
const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_loose_object_property_names: false,
    allow_trailing_commas: true,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// The text of a file, and what it is called.
pub(super) struct Document<'a> {
    file: &'a str,
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'a> Document<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file, text, lines }
    }

    pub(super) fn parse(&self) -> Result<Value<'a>> {
        let parsed = jsonc_parser::parse_to_ast(self.text, &CollectOptions::default(), &OPTIONS);
        let result = parsed.map_err(|error| {
            let line = u64::try_from(error.line_display()).ok();
            // Its own text ends with the place, which the context has.
            malformed(self.file, line, "", &error.kind().to_string().to_lowercase())
                .with("column", error.column_display())
                .hint("write JSON; comments and trailing commas are allowed")
        })?;
        result.value.ok_or_else(|| {
            malformed(self.file, None, "", "it is empty").hint("write at least {}, or delete the file")
        })
    }

    /// The line of a place in the text, from 1.
    fn line(&self, place: usize) -> u64 {
        self.lines.partition_point(|start| *start <= place) as u64
    }
}

/// A value of the document, and how to get there.
pub(super) struct Field<'d, 'a> {
    document: &'d Document<'a>,
    pub(super) path: String,
    pub(super) line: u64,
    pub(super) value: &'d Value<'a>,
}

impl<'d, 'a> Field<'d, 'a> {
    pub(super) fn root(document: &'d Document<'a>, value: &'d Value<'a>) -> Self {
        Self { document, path: String::new(), line: document.line(value.start()), value }
    }

    fn child(&self, name: &str, place: usize, value: &'d Value<'a>) -> Self {
        let path = if self.path.is_empty() { name.into() } else { format!("{}.{name}", self.path) };
        Self { document: self.document, path, line: self.document.line(place), value }
    }

    pub(super) fn malformed(&self, why: &str, hint: &str) -> Error {
        malformed(self.document.file, Some(self.line), &self.path, why).hint(hint)
    }

    /// The same error with the file, line and field of this value.
    pub(super) fn at(&self, error: Error) -> Error {
        error.with("file", self.document.file).with("line", self.line).with("field", &self.path)
    }

    pub(super) fn ignored(&self, reason: IgnoredReason) -> IgnoredField {
        IgnoredField::new(&self.path, Some(self.line), reason)
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value, Value::NullKeyword(_))
    }

    pub(super) fn string(&self, hint: &str) -> Result<String> {
        match self.value {
            Value::StringLit(text) if text.value.contains('\0') => {
                Err(self.malformed("it has a NUL character", "take it out"))
            }
            Value::StringLit(text) => Ok(text.value.clone().into_owned()),
            _ => Err(self.malformed("it is not a string", hint)),
        }
    }

    /// The elements of an array. Each has the place of its own.
    pub(super) fn elements(&self, hint: &str) -> Result<Vec<Self>> {
        let Value::Array(array) = self.value else {
            return Err(self.malformed("it is not an array", hint));
        };
        let element = |(index, value): (usize, &'d Value<'a>)| Self {
            document: self.document,
            path: format!("{}[{index}]", self.path),
            line: self.document.line(value.start()),
            value,
        };
        Ok(array.elements.iter().enumerate().map(element).collect())
    }

    /// The fields of an object by name. Of those that come more than once the last counts, as JSON readers have it;
    /// the others go to `ignored`.
    pub(super) fn fields(
        &self,
        ignored: &mut Vec<IgnoredField>,
        hint: &str,
    ) -> Result<BTreeMap<String, Self>> {
        let Value::Object(object) = self.value else {
            return Err(self.malformed("it is not an object", hint));
        };
        Ok(self.fields_of(object, ignored))
    }

    fn fields_of(&self, object: &'d Object<'a>, ignored: &mut Vec<IgnoredField>) -> BTreeMap<String, Self> {
        let mut fields = BTreeMap::new();
        for property in &object.properties {
            let name = property.name.as_str();
            let field = self.child(name, property.name.start(), &property.value);
            if let Some(repeated) = fields.insert(name.to_owned(), field) {
                ignored.push(repeated.ignored(IgnoredReason::Repeated));
            }
        }
        fields
    }
}
