//! Reads JSONPath, and the intrinsic calls that contain it, character by character.

use crate::filter::Filter;
use crate::path::{MAX_STEPS, Path, PathError, Step};

#[derive(Debug)]
pub(crate) struct Cursor {
    characters: Vec<char>,
    pub(crate) at: usize,
    /// How deep filters and calls are in each other.
    pub(crate) depth: usize,
}

impl Cursor {
    pub(crate) fn new(text: &str) -> Self {
        Self { characters: text.chars().collect(), at: 0, depth: 0 }
    }

    pub(crate) fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    pub(crate) fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    pub(crate) fn take(&mut self, text: &str) -> bool {
        let wanted: Vec<char> = text.chars().collect();
        let there = self.characters.get(self.at..).is_some_and(|rest| rest.starts_with(&wanted));
        if there {
            self.at += wanted.len();
        }
        there
    }

    pub(crate) fn spaces(&mut self) {
        while self.peek().is_some_and(|c| c == ' ' || c == '\t') {
            self.at += 1;
        }
    }

    pub(crate) fn error(&self, reason: impl Into<String>) -> PathError {
        PathError { reason: reason.into(), at: self.at }
    }

    pub(crate) fn expect(&mut self, text: &str) -> Result<(), PathError> {
        if self.take(text) { Ok(()) } else { Err(self.error(format!("{text:?} is missing"))) }
    }

    pub(crate) fn while_matches(&mut self, wanted: impl Fn(char) -> bool) -> String {
        let begun = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        self.characters[begun..self.at].iter().collect()
    }

    pub(crate) fn path(&mut self) -> Result<Path, PathError> {
        self.expect("$")?;
        let context = self.take("$");
        Ok(Path { context, steps: self.steps()? })
    }

    pub(crate) fn steps(&mut self) -> Result<Vec<Step>, PathError> {
        let mut steps = Vec::new();
        loop {
            if steps.len() > MAX_STEPS {
                return Err(self.error(format!("it has more than {MAX_STEPS} steps")));
            }
            if self.take("..") {
                steps.push(Step::Descend);
                if self.peek() == Some('[') {
                    continue;
                }
                steps.push(self.name()?);
            } else if self.take(".") {
                if self.peek() == Some('[') {
                    continue;
                }
                steps.push(self.name()?);
            } else if self.take("[") {
                steps.push(self.brackets()?);
            } else {
                return Ok(steps);
            }
        }
    }

    fn name(&mut self) -> Result<Step, PathError> {
        if self.take("*") {
            return Ok(Step::Wildcard);
        }
        let name = self.while_matches(is_name);
        if name.is_empty() {
            return Err(self.error("a name is missing"));
        }
        if self.peek() == Some('(') {
            return Err(self.error(format!("the function {name}() is not supported")));
        }
        Ok(Step::Field(name))
    }

    fn brackets(&mut self) -> Result<Step, PathError> {
        self.spaces();
        let step = match self.peek() {
            Some('*') => {
                self.at += 1;
                Step::Wildcard
            }
            Some('\'' | '"') => {
                let mut names = vec![self.quoted()?];
                while self.comma() {
                    names.push(self.quoted()?);
                }
                if names.len() == 1 { Step::Field(names.remove(0)) } else { Step::Fields(names) }
            }
            Some('?') => {
                self.at += 1;
                self.spaces();
                self.expect("(")?;
                let filter = Filter::read(self)?;
                self.spaces();
                self.expect(")")?;
                Step::Filter(filter)
            }
            _ => self.numbers()?,
        };
        self.spaces();
        self.expect("]")?;
        Ok(step)
    }

    fn comma(&mut self) -> bool {
        self.spaces();
        let there = self.take(",");
        self.spaces();
        there
    }

    fn numbers(&mut self) -> Result<Step, PathError> {
        let first = self.integer()?;
        self.spaces();
        if self.take(":") {
            self.spaces();
            let end = self.integer()?;
            self.spaces();
            let step = if self.take(":") { self.integer()? } else { None };
            if step.is_some_and(|step| step < 1) {
                return Err(self.error("the step of a slice must be at least 1"));
            }
            return Ok(Step::Slice(first, end, step));
        }
        let mut indexes = vec![first.ok_or_else(|| self.error("an index, a quoted name, `*` or `?` is missing"))?];
        while self.comma() {
            indexes.push(self.integer()?.ok_or_else(|| self.error("an index is missing"))?);
        }
        Ok(if indexes.len() == 1 { Step::Index(indexes[0]) } else { Step::Indexes(indexes) })
    }

    fn integer(&mut self) -> Result<Option<i64>, PathError> {
        let text = self.while_matches(|c| c == '-' || c.is_ascii_digit());
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| self.error(format!("{text} is not an index")))
    }

    /// A name or a text between quotes of either kind; a backslash takes the next character as it is.
    pub(crate) fn quoted(&mut self) -> Result<String, PathError> {
        let quote = self.next().filter(|c| *c == '\'' || *c == '"').ok_or_else(|| self.error("a quoted name is missing"))?;
        let mut text = String::new();
        loop {
            match self.next().ok_or_else(|| self.error("the closing quote is missing"))? {
                '\\' => text.push(self.next().ok_or_else(|| self.error("something must follow the backslash"))?),
                c if c == quote => return Ok(text),
                c => text.push(c),
            }
        }
    }
}

pub(crate) fn is_name(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && !".[]()'\"`,?*@:{}<>=!&|\\^~#%+;/$".contains(c)
}
