import AccessPolicy
import RESP
@testable import SidelockSettings

private let accounts = AccountLookup(
  user: { $0 == "anna" ? .number(1000) : .unknown }, group: { $0 == "shop" ? .number(100) : .unknown })

/// Any file either gives settings or says, with its line, what is wrong; and it does so again.
func checkSettings(_ input: [UInt8]) {
  var inputs = SettingsInputs { path, _ in path == "/f" ? .success(input) : .failure(.missing) }
  inputs.configFlag = "/f"
  inputs.systemHostName = "h"
  inputs.accounts = accounts
  let resolution = SettingsResolution(inputs)
  if (resolution.settings == nil) != !resolution.problems.isEmpty { violated("neither settings nor a problem") }
  for problem in resolution.problems {
    if problem.description.isEmpty { violated("a problem without words") }
    let controls = problem.description.utf8.contains { $0 < 0x20 || $0 == 0x7F }
    if controls { violated("control characters reach the terminal: \(problem.description.debugDescription)") }
  }
  // A second look takes as long as the first.
  if input.count.isMultiple(of: 8), resolution.problemLines != SettingsResolution(inputs).problemLines {
    violated("a second look says something else")
  }
}

/// A rule says where it is wrong, within itself; a URL is shown without its password, and the shown one is read as the same.
func checkRulesAndURLs(_ input: [UInt8]) {
  let text = String(decoding: input, as: UTF8.self)
  do throws(RuleProblem) {
    let rule = try AccessRule(parsing: text, accounts: accounts)
    if rule.subjects.isEmpty { violated("a rule about nobody") }
  } catch {
    if error.position < 1 || error.position > text.utf8.count + 1 { violated("a mistake outside of the text") }
  }
  guard let url = try? RedisURL(parsing: text) else { return }
  var shown = url
  if url.password != nil { shown.password = RedisSecret(Array("***".utf8)) }
  guard let again = try? RedisURL(parsing: url.description) else { violated("what is shown is no URL: \(url)") }
  if again != shown { violated("another URL is shown: \(url)") }
}
