//! The command line.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::support::check_message;
use crate::cli::Failure;
use crate::cli::flags::{ParsedCommand, override_hyperparameters};
use crate::cli::{help, parse};

/// Parses NUL-separated arguments. They are a command with arguments in range, or a usage error.
pub fn command_line(input: &[u8]) {
    let arguments = input.split(|&byte| byte == 0);
    let arguments = arguments.map(|argument| OsString::from_vec(argument.to_vec()));
    match parse::parse(arguments) {
        Ok(ParsedCommand::Train(args, raw)) => {
            assert!(args.config.validate().is_ok());
            assert!(args.hyperparameters.validate().is_ok());
            assert!(args.steps > 0 && args.eval_interval() > 0 && args.threads.count() > 0);
            let again = override_hyperparameters(Default::default(), &raw);
            assert_eq!(again.unwrap(), args.hyperparameters);
        }
        Ok(ParsedCommand::Generate(args)) => {
            assert!(args.options.sampling.validate().is_ok());
            assert!(args.count() > 0 && args.options.max_tokens != Some(0));
        }
        Ok(ParsedCommand::Chat(args)) => assert!(args.options.sampling.validate().is_ok()),
        Ok(ParsedCommand::Help(command)) => assert!(!help::full(command).is_empty()),
        Ok(ParsedCommand::Summary(command)) => assert!(!help::summary(command).is_empty()),
        Ok(_) => {}
        Err(failure) => {
            assert!(matches!(failure, Failure::Usage(_)), "{failure:?}");
            check_message(&failure);
        }
    }
}
