package broker

// Unanswered is for the tests.
var Unanswered = unanswered
