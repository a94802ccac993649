module sidelock

go 1.19
