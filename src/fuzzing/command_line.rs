//! The words after the program's name.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::check_message;
use crate::cli::flags::Takes;
use crate::cli::parse::{Request, Words};
use crate::cli::sampling::{sampling_options, seed};
use crate::cli::{Failure, TrainOptions, help};

/// The arguments, with NUL between them: they are a request or a mistake that is well said, and
/// so is the value of every option. Nothing is done.
pub fn command_line(input: &[u8]) {
    let words = input.split(|&byte| byte == 0);
    let words = words
        .map(|word| OsString::from_vec(word.to_vec()))
        .collect();
    match Request::parse(words) {
        Ok(Request::Overview) => assert!(!help::overview().is_empty()),
        Ok(Request::Summary(command)) => assert!(!help::summary(command).is_empty()),
        Ok(Request::Page(command)) => assert!(!help::page(command).is_empty()),
        Ok(Request::Version) => {}
        Ok(Request::Run(words)) => values(&words),
        Err(failure) => usage_error(failure),
    }
}

/// Reads the values of all options, each as what it is.
fn values(words: &Words) {
    for option in words.command.options() {
        match option.takes {
            Takes::Nothing => assert_eq!(words.has(option.name), words.path(option.name).is_some()),
            Takes::Value("N") => {
                let count = checked(words.count(option.name));
                assert_ne!(count.flatten(), Some(0));
            }
            Takes::Value("X") => {
                let share = checked(words.real(option.name, |x| x < 1.0, "< 1"));
                assert!(share.flatten().is_none_or(|x| x < 1.0));
            }
            Takes::Value(_) | Takes::OneOf(_) => {
                checked(words.text(option.name));
            }
            Takes::File | Takes::Dir => {
                assert_eq!(words.has(option.name), words.path(option.name).is_some())
            }
        }
    }
    checked(words.operand());
    let _ = words.files().count();
    match words.command.name {
        "train" => {
            checked(TrainOptions::from_words(words));
        }
        "generate" | "chat" => {
            let options = checked(sampling_options(words));
            assert!(options.is_none_or(|options| options.validate().is_ok()));
            checked(seed(words));
        }
        _ => {}
    }
}

fn checked<T>(read: Result<T, Failure>) -> Option<T> {
    read.map_err(usage_error).ok()
}

fn usage_error(failure: Failure) {
    assert!(matches!(failure, Failure::Usage(_)), "{failure:?}");
    check_message(&failure);
}
