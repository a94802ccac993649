<?php
const SCRIPT = 'if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end';
$server = stream_socket_client('unix://' . getenv('CYCLES_REDIS'));

function ask($server, string $expected, string ...$words): void
{
    $line = '*' . count($words) . "\r\n";
    foreach ($words as $word) {
        $line .= '$' . strlen($word) . "\r\n$word\r\n";
    }
    fwrite($server, $line);
    $answer = fread($server, 4096);
    if ($answer !== "$expected\r\n") {
        throw new Exception($answer);
    }
}

$end = microtime(true) + (float) getenv('CYCLES_SECONDS');
for ($count = 0; microtime(true) < $end; $count++) {
    ask($server, '+OK', 'SET', 'raw', 'mine', 'NX', 'PX', '30000');
    ask($server, ':1', 'EVAL', SCRIPT, '1', 'raw', 'mine');
}
echo "$count\n";
