<?php
$end = microtime(true) + (float) getenv('CYCLES_SECONDS');
for ($count = 0; microtime(true) < $end; $count++) {
    Sidelock\lock('cycles')->release();
}
echo "$count\n";
