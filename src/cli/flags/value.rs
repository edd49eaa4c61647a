//! Values of options: parsing, and their form in help.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::kernels::cpu::cores;
use crate::train::LearningRate;

/// The maximum number of threads. A larger one is taken for a mistake.
const MAX_THREADS: u64 = 1024;

/// A field of a command's arguments that an option or operand sets.
pub trait Value {
    /// Parses and stores an argument. The error completes "must be": `a number`.
    fn set(&mut self, argument: &OsStr) -> Result<(), String>;

    /// Returns the value as help shows it, or `None` if there is none yet.
    fn show(&self) -> Option<String>;
}

/// An option without a value: set when it is given.
impl Value for bool {
    fn set(&mut self, _: &OsStr) -> Result<(), String> {
        *self = true;
        Ok(())
    }

    fn show(&self) -> Option<String> {
        None
    }
}

impl Value for PathBuf {
    fn set(&mut self, argument: &OsStr) -> Result<(), String> {
        // Of a variable that a script did not set.
        if argument.is_empty() {
            return Err("a path".to_string());
        }
        *self = argument.into();
        Ok(())
    }

    fn show(&self) -> Option<String> {
        Some(self.display().to_string())
    }
}

/// Operands or a repeatable option: each argument is added.
impl<T: Value + Default> Value for Vec<T> {
    fn set(&mut self, argument: &OsStr) -> Result<(), String> {
        let mut value = T::default();
        value.set(argument)?;
        self.push(value);
        Ok(())
    }

    fn show(&self) -> Option<String> {
        None
    }
}

impl Value for String {
    fn set(&mut self, argument: &OsStr) -> Result<(), String> {
        *self = argument.to_str().ok_or("UTF-8 text")?.to_string();
        Ok(())
    }

    fn show(&self) -> Option<String> {
        (!self.is_empty()).then(|| self.clone())
    }
}

/// The origin of web pages: a scheme, a host and perhaps a port; or `*`.
#[derive(Default)]
pub struct Origin(pub String);

impl Value for Origin {
    fn set(&mut self, argument: &OsStr) -> Result<(), String> {
        let origin = argument.to_str().unwrap_or_default();
        let (_, authority) = origin.split_once("://").unwrap_or_default();
        let is_valid = !authority.is_empty() && !authority.contains(['/', '?', '#', '*', ' ']);
        if !is_valid && origin != "*" {
            return Err("* or an origin such as http://localhost:3000".to_string());
        }
        self.0 = origin.to_string();
        Ok(())
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// A host name, without a port.
#[derive(Default)]
pub struct HostName(pub String);

impl Value for HostName {
    fn set(&mut self, argument: &OsStr) -> Result<(), String> {
        let name = argument.to_str().unwrap_or_default();
        if name.is_empty() || name.contains(['/', ':', '*', ' ']) {
            return Err("a host name without a port".to_string());
        }
        self.0 = name.to_string();
        Ok(())
    }

    fn show(&self) -> Option<String> {
        None
    }
}

/// Any number, infinity and NaN included: the struct of the field checks its range.
impl Value for f64 {
    fn set(&mut self, argument: &OsStr) -> Result<(), String> {
        let number = argument.to_str().and_then(|text| text.trim().parse().ok());
        *self = number.ok_or("a number")?;
        Ok(())
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for LearningRate {
    fn set(&mut self, argument: &OsStr) -> Result<(), String> {
        if argument == "auto" {
            *self = LearningRate::Auto;
            return Ok(());
        }
        let mut lr = 0.0;
        let is_valid = lr.set(argument).is_ok() && lr > 0.0 && lr.is_finite();
        *self = is_valid
            .then_some(LearningRate::Value(lr))
            .ok_or("auto or a number > 0")?;
        Ok(())
    }

    fn show(&self) -> Option<String> {
        None
    }
}

impl<T: Value + Default> Value for Option<T> {
    fn set(&mut self, argument: &OsStr) -> Result<(), String> {
        self.get_or_insert_default().set(argument)
    }

    fn show(&self) -> Option<String> {
        self.as_ref()?.show()
    }
}

/// Implements [`Value`] for integers of a range.
macro_rules! whole_numbers {
    ($($type:ty: $range:expr;)*) => {$(
        impl Value for $type {
            fn set(&mut self, argument: &OsStr) -> Result<(), String> {
                *self = parse_whole_number(argument, $range)?;
                Ok(())
            }

            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )*};
}

whole_numbers! {
    u16: 0..=u16::MAX.into();
    u64: 0..=u64::MAX;
    // A size or a count.
    usize: 1..=isize::MAX as u64;
}

fn parse_whole_number<T: TryFrom<u64>>(
    argument: &OsStr,
    range: RangeInclusive<u64>,
) -> Result<T, String> {
    let text = argument.to_str().unwrap_or_default().trim();
    let number = text.parse().ok().filter(|number| range.contains(number));
    number
        .and_then(|number: u64| T::try_from(number).ok())
        .ok_or_else(|| {
            let (min, max) = range.into_inner();
            let is_too_large = text.parse::<u128>().is_ok_and(|n| n > max.into());
            // A limit beyond practice is of interest only to those who exceed it.
            if max < isize::MAX as u64 || is_too_large {
                format!("a whole number from {min} to {max}")
            } else {
                format!("a whole number >= {min}")
            }
        })
}

/// A number of threads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Threads {
    #[default]
    AllCores,
    Count(usize),
}

impl Threads {
    pub fn count(self) -> usize {
        match self {
            Threads::AllCores => cores(),
            Threads::Count(count) => count,
        }
    }

    /// Returns the number for each of the processes that share the cores.
    pub fn count_per_process(self, processes: usize) -> usize {
        match self {
            Threads::AllCores => (cores() / processes).max(1),
            Threads::Count(count) => count,
        }
    }
}

impl Value for Threads {
    fn set(&mut self, argument: &OsStr) -> Result<(), String> {
        *self = Threads::Count(parse_whole_number(argument, 1..=MAX_THREADS)?);
        Ok(())
    }

    fn show(&self) -> Option<String> {
        Some(match self {
            Threads::AllCores => "all cores".to_string(),
            Threads::Count(count) => count.to_string(),
        })
    }
}

/// A type with a few named values.
pub trait Choice: Copy + PartialEq + 'static {
    const NAMED: &'static [(&'static str, Self)];

    fn name(self) -> &'static str {
        let mut named = Self::NAMED.iter();
        named
            .find(|(_, value)| *value == self)
            .map_or("", |(name, _)| name)
    }
}

/// The names of a type's values.
pub fn names<T: Choice>() -> Vec<&'static str> {
    T::NAMED.iter().map(|(name, _)| *name).collect()
}

impl<T: Choice> Value for T {
    fn set(&mut self, argument: &OsStr) -> Result<(), String> {
        let named = T::NAMED.iter().find(|(name, _)| *name == argument);
        let (_, value) = named.ok_or_else(|| join(&names::<T>(), "or"))?;
        *self = *value;
        Ok(())
    }

    fn show(&self) -> Option<String> {
        Some(self.name().to_string())
    }
}

/// Joins words into a list: `a, b or c`.
pub fn join(words: &[&str], conjunction: &str) -> String {
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => {
            format!("{} {conjunction} {last}", rest.join(", "))
        }
        _ => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: &mut dyn Value, argument: &str, expected: Result<&str, &str>) {
        let set = value.set(OsStr::new(argument));
        let found = set.map(|()| value.show().unwrap());
        assert_eq!(found.as_deref().map_err(|e| &**e), expected, "{argument}");
    }

    #[test]
    fn whole_numbers_have_ranges() {
        check(&mut 0_u16, " 8080 ", Ok("8080"));
        check(&mut 0_u16, "65536", Err("a whole number from 0 to 65535"));
        check(
            &mut 0_u64,
            "18446744073709551615",
            Ok("18446744073709551615"),
        );
        let limit = "a whole number from 0 to 18446744073709551615";
        check(&mut 0_u64, "18446744073709551616", Err(limit));
        check(&mut 0_u64, "-1", Err("a whole number >= 0"));
        check(&mut 0_usize, "0", Err("a whole number >= 1"));
        check(&mut 0_usize, "1e3", Err("a whole number >= 1"));
        let mut threads = Threads::AllCores;
        assert_eq!(threads.show().as_deref(), Some("all cores"));
        check(&mut threads, "3", Ok("3"));
        check(&mut threads, "1025", Err("a whole number from 1 to 1024"));
    }

    #[test]
    fn numbers_and_text() {
        check(&mut 0.0_f64, "2.50", Ok("2.5"));
        check(&mut 0.0_f64, "x", Err("a number"));
        check(&mut None::<f64>, "1", Ok("1"));
        check(&mut String::new(), "ab", Ok("ab"));
        check(&mut PathBuf::new(), "a/b", Ok("a/b"));
        check(&mut PathBuf::new(), "", Err("a path"));
        assert_eq!(None::<usize>.show(), None);
    }

    #[test]
    fn list_has_a_conjunction() {
        assert_eq!(join(&["a", "b", "c"], "or"), "a, b or c");
        assert_eq!(join(&["a"], "or"), "a");
        assert_eq!(join(&[], "or"), "");
    }
}
