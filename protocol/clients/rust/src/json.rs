//! As much of JSON as the protocol needs.

use std::collections::BTreeMap;

const NESTING_MAX: usize = 64;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(i64),
    Fraction(f64),
    Text(String),
    List(Vec<Value>),
    Object(BTreeMap<String, Value>),
}

impl Value {
    /// Reads a value; None where it is none.
    pub fn parse(text: &str) -> Option<Value> {
        let mut reader = Reader { bytes: text.as_bytes(), at: 0, depth: 0 };
        let value = reader.value()?;
        reader.space();
        (reader.at == reader.bytes.len()).then_some(value)
    }

    /// A member of an object.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Object(members) => members.get(key).filter(|value| **value != Value::Null),
            _ => None,
        }
    }

    pub fn number(&self, key: &str) -> Option<i64> {
        match self.get(key) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub fn list(&self, key: &str) -> Option<&[Value]> {
        match self.get(key) {
            Some(Value::List(values)) => Some(values),
            _ => None,
        }
    }

    pub fn write(&self, to: &mut String) {
        match self {
            Value::Null => to.push_str("null"),
            Value::Bool(value) => to.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => to.push_str(&number.to_string()),
            Value::Fraction(number) => to.push_str(&number.to_string()),
            Value::Text(text) => write_text(text, to),
            Value::List(values) => {
                to.push('[');
                for (index, value) in values.iter().enumerate() {
                    if index > 0 {
                        to.push(',');
                    }
                    value.write(to);
                }
                to.push(']');
            }
            Value::Object(members) => {
                to.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    if index > 0 {
                        to.push(',');
                    }
                    write_text(name, to);
                    to.push(':');
                    value.write(to);
                }
                to.push('}');
            }
        }
    }
}

/// An object of these members.
pub fn object(members: Vec<(&str, Value)>) -> Value {
    Value::Object(members.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
}

/// A text.
pub fn text(value: &str) -> Value {
    Value::Text(value.to_string())
}

fn write_text(text: &str, to: &mut String) {
    to.push('"');
    for next in text.chars() {
        match next {
            '"' | '\\' => {
                to.push('\\');
                to.push(next);
            }
            next if (next as u32) < 0x20 => to.push_str(&format!("\\u{:04x}", next as u32)),
            next => to.push(next),
        }
    }
    to.push('"');
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn takes(&mut self, wanted: u8) -> bool {
        self.space();
        let is_there = self.bytes.get(self.at) == Some(&wanted);
        self.at += usize::from(is_there);
        is_there
    }

    fn value(&mut self) -> Option<Value> {
        self.space();
        if self.depth == NESTING_MAX {
            return None;
        }
        self.depth += 1;
        let value = match self.bytes.get(self.at)? {
            b'{' => self.members(),
            b'[' => self.values(),
            b'"' => self.string().map(Value::Text),
            _ => self.word(),
        };
        self.depth -= 1;
        value
    }

    fn members(&mut self) -> Option<Value> {
        let mut members = BTreeMap::new();
        self.at += 1;
        if self.takes(b'}') {
            return Some(Value::Object(members));
        }
        loop {
            self.space();
            let name = self.string()?;
            if !self.takes(b':') {
                return None;
            }
            members.insert(name, self.value()?);
            if self.takes(b'}') {
                return Some(Value::Object(members));
            }
            if !self.takes(b',') {
                return None;
            }
        }
    }

    fn values(&mut self) -> Option<Value> {
        let mut values = Vec::new();
        self.at += 1;
        if self.takes(b']') {
            return Some(Value::List(values));
        }
        loop {
            values.push(self.value()?);
            if self.takes(b']') {
                return Some(Value::List(values));
            }
            if !self.takes(b',') {
                return None;
            }
        }
    }

    fn unit(&mut self) -> Option<u32> {
        let digits = self.bytes.get(self.at..self.at + 4)?;
        self.at += 4;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    }

    fn string(&mut self) -> Option<String> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return None;
        }
        self.at += 1;
        let mut found = Vec::new();
        loop {
            let next = *self.bytes.get(self.at)?;
            self.at += 1;
            match next {
                b'"' => return String::from_utf8(found).ok(),
                b'\\' => {
                    let escape = *self.bytes.get(self.at)?;
                    self.at += 1;
                    let code = match escape {
                        b'n' => '\n',
                        b't' => '\t',
                        b'r' => '\r',
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'u' => {
                            let mut code = self.unit()?;
                            if (0xd800..0xdc00).contains(&code) && self.bytes.get(self.at..self.at + 2) == Some(b"\\u") {
                                self.at += 2;
                                code = 0x10000 + ((code - 0xd800) << 10) + self.unit()?.checked_sub(0xdc00)?;
                            }
                            char::from_u32(code).unwrap_or('\u{fffd}')
                        }
                        other => other as char,
                    };
                    found.extend_from_slice(code.encode_utf8(&mut [0; 4]).as_bytes());
                }
                other => found.push(other),
            }
        }
    }

    fn word(&mut self) -> Option<Value> {
        let begin = self.at;
        while self.bytes.get(self.at).map_or(false, |next| !b",]} \t\r\n".contains(next)) {
            self.at += 1;
        }
        let word = std::str::from_utf8(&self.bytes[begin..self.at]).ok()?;
        match word {
            "null" => Some(Value::Null),
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ => word.parse().map(Value::Number).or_else(|_| word.parse().map(Value::Fraction)).ok(),
        }
    }
}
