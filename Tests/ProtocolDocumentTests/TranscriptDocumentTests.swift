import ClientProtocol
import Foundation
import Testing

/// The transcripts are replayed against a real daemon elsewhere; here, what they send is read by the real decoder.
@Suite struct TranscriptDocumentTests {
  private struct Sent {
    var file: String
    var line: Int
    var request: [String: Any]
  }

  /// Every object that a transcript sends and whose very next step, for the same client, expects an answer.
  private func requests() throws -> [(Sent, answer: Node)] {
    let directory = Documents.directory.appending(path: "transcripts")
    let files = try FileManager.default.contentsOfDirectory(atPath: directory.path).filter { $0.hasSuffix(".jsonl") }
    #expect(files.count > 10)
    var found: [(Sent, answer: Node)] = []
    for file in files.sorted() {
      let lines = try Documents.text("transcripts/\(file)").split(separator: "\n")
      let steps = try lines.map { Node(try JSONSerialization.jsonObject(with: Data($0.utf8))) }
      for (index, step) in steps.enumerated() where step["send"].keys.contains("method") {
        guard index + 1 < steps.count, steps[index + 1]["client"].string == step["client"].string else { continue }
        guard let request = step["send"].value as? [String: Any] else { continue }
        found.append((Sent(file: file, line: index + 1, request: request), steps[index + 1]["expect"]))
      }
    }
    return found
  }

  @Test func theDecoderRefusesExactlyWhatTheTranscriptsSayItRefuses() throws {
    var decoder = RequestDecoder()
    for (sent, answer) in try requests() where !answer.keys.isEmpty {
      let line = try JSONSerialization.data(withJSONObject: withTokens(sent.request))
      let place: Comment = "\(sent.file):\(sent.line)"
      let code = answer["error"]["code"].integer
      switch decoder.decode(Array(line)) {
      case .refused(let refusal):
        #expect(code == Int64(refusal.code.rawValue), place)
      case .request, .cancelNotification:
        // Refusals that only the daemon can know of: an id in flight, and what it does not offer yet.
        let files = ["in_flight", "params", "watch", "transfer", "clients", "trace"].map { "\($0).jsonl" }
        let isDaemons = files.contains(sent.file)
        #expect((code ?? 0) >= 0 || isDaemons, place)
      }
    }
  }

  /// A token, a session's name or a cursor that the daemon gave stands as an object in the transcript.
  private func withTokens(_ value: [String: Any]) -> [String: Any] {
    var request = value
    guard var parameters = request["params"] as? [String: Any] else { return request }
    if parameters["token"] is [String: Any] { parameters["token"] = 1 }
    for name in ["session", "cursor"] where parameters[name] is [String: Any] { parameters[name] = "1" }
    request["params"] = parameters
    return request
  }
}
