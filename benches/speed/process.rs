//! A server under measurement: started, waited for, weighed, ended.
