import ClientProtocol
import SidelockClient

/// What a framer and a decoder made of a stream.
private struct Framed: Equatable {
  var messages: [ClientMessage] = []
  var tooLong = 0
  var isHopeless = false
}

/// Lines from a client are taken alike however they are cut; what is taken is JSON by another reader, too; and a position
/// that was written down is gone on from.
func checkLines(_ input: [UInt8]) {
  var choices = Choices(input)
  let seed = choices.byte()
  let stream = choices.remaining()
  var outcomes: [Framed] = []
  for pieces in cuts(stream, seed: seed) {
    var framer = LineFramer(lineBytesMax: 512, unendedBytesMax: 2048)
    var decoder = RequestDecoder()
    var outcome = Framed()
    for piece in pieces {
      Array(piece).withUnsafeBytes { take($0, &framer, &decoder, &outcome) }
      var next = LineFramer(lineBytesMax: 512, unendedBytesMax: 2048)
      next.position = framer.position
      if next.position != framer.position { violated("a framer's own position is impossible") }
      framer = next
    }
    if case .line(let message) = framer.finish({ decoder.decode($0) }) { outcome.messages.append(message) }
    outcomes.append(outcome)
  }
  if outcomes[0] != outcomes[1] { violated("the cut changes what is read") }
}

private func take(
  _ bytes: UnsafeRawBufferPointer, _ framer: inout LineFramer, _ decoder: inout RequestDecoder, _ outcome: inout Framed
) {
  var rest = bytes
  while true {
    switch framer.next(from: &rest, { line in judged(line, &decoder) }) {
    case .line(let message): outcome.messages.append(message)
    case .tooLong: outcome.tooLong += 1
    case .hopeless:
      outcome.isHopeless = true
      return
    case .needsInput: return
    }
  }
}

private func judged(_ line: UnsafeRawBufferPointer, _ decoder: inout RequestDecoder) -> ClientMessage {
  if line.contains(0x0A) || line.isEmpty { violated("a line holds its own end") }
  let message = decoder.decode(line)
  switch message {
  case .request(let id, let request):
    if (try? JSONValue(parsing: line)) == nil { violated("a request that is no JSON was taken") }
    if case .integer(let number) = id, number.magnitude > UInt64(Limits.integerMax) {
      violated("an id beyond its limit")
    }
    if case .acquire(let params) = request, params.name.bytes.count > Limits.nameBytesMax {
      violated("a name beyond its limit")
    }
  case .cancelNotification:
    if (try? JSONValue(parsing: line)) == nil { violated("a notification that is no JSON was taken") }
  case .refused: break
  }
  return message
}

/// Lines from a daemon are taken alike however they are cut, and JSON that was read is written and read again the same.
func checkClient(_ input: [UInt8]) {
  var choices = Choices(input)
  let seed = choices.byte()
  let stream = choices.remaining()
  var outcomes: [[ClientMachine.Event]] = []
  for pieces in cuts(stream, seed: seed) {
    var machine = ClientMachine()
    outcomes.append(pieces.flatMap { machine.received($0) })
  }
  if outcomes[0] != outcomes[1] { violated("the cut changes what is read") }
  guard let value = try? JSONValue(parsing: stream) else { return }
  let text = value.serialized
  guard let again = try? JSONValue(parsing: text) else { violated("what was written is no JSON: \(text)") }
  if again != value { violated("another value was written: \(text)") }
}
