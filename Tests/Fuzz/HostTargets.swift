@testable import Sidecar

/// What another daemon asks or answers is understood or is not; what is understood is written and understood again the same.
func checkHosts(_ input: [UInt8]) {
  if let question = HostQuestion(input), HostQuestion(question.encoded) != question {
    violated("another question was written")
  }
  let answer = input[...]
  _ = HostAnswer.version(in: answer)
  _ = HostAnswer.tellsEvents(answer)
  let tokens = HostAnswer.tokens(in: answer)
  if HostAnswer.tokens(in: HostAnswer.encoding(tokens: tokens)[...]) != tokens { violated("other tokens were written") }
  for report in RemoteLockReport.all(in: answer, from: "i") {
    var bytes: [UInt8] = []
    guard report.append(to: &bytes) else { violated("a short report has no room in an answer") }
    if RemoteLockReport.all(in: bytes[...], from: "i") != [report] { violated("another report was written") }
  }
  guard let report = EventReport(answer) else { return }
  if report.next - report.first < report.entries.count || report.entries.count > EventReport.entriesMax {
    violated("more events than were told")
  }
  for entry in report.entries {
    var bytes = EventReport.encoding(stream: report.stream, first: report.first)
    EventReport.append(
      EventReport.encoding(entry.name, entry.event), ageMilliseconds: entry.ageMilliseconds, to: &bytes)
    if EventReport(bytes[...])?.entries != [entry] { violated("another event was written") }
  }
}
