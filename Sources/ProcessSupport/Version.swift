/// The version of both programs, as told by `--version` and `initialize`.
package let sidelockVersion = "0.1.0"
