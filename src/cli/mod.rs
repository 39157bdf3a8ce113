//! The command line: arguments, client and output, one file per noun.
