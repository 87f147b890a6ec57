"""What each part buys: digits, with one choice changed at a time around a base.

`choices` says what is compared, `training` trains one of them, `report` draws and writes.
"""
