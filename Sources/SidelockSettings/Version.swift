/// The version of the daemon, as told by `--version` and `initialize`.
public let sidelockVersion = "0.1.0"
