require "socket"

SCRIPT = 'if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end'
SERVER = UNIXSocket.new(ENV["CYCLES_REDIS"])

def ask(expected, *words)
  SERVER.write("*#{words.size}\r\n" + words.map { |word| "$#{word.bytesize}\r\n#{word}\r\n" }.join)
  answer = SERVER.readpartial(4096)
  raise answer unless answer == "#{expected}\r\n"
end

finish = Process.clock_gettime(Process::CLOCK_MONOTONIC) + ENV["CYCLES_SECONDS"].to_f
count = 0
while Process.clock_gettime(Process::CLOCK_MONOTONIC) < finish
  ask("+OK", "SET", "raw", "mine", "NX", "PX", "30000")
  ask(":1", "EVAL", SCRIPT, "1", "raw", "mine")
  count += 1
end
puts count
